package main

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		exit(beChild())
	}
	os.Exit(m.Run())
}

// TestChaos is a short run of what make chaos does for longer.
func TestChaos(t *testing.T) {
	for _, seed := range []uint64{1, rand.Uint64()} {
		if err := prove(t.Context(), t.Output(), seed, 10*time.Second, true); err != nil {
			t.Error(err)
		}
	}
}
