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

// TestChaos is a short run of what make chaos does for longer: with a fail-over that loses something, and then with any.
func TestChaos(t *testing.T) {
	for only, seed := range map[string]uint64{"tail lost": 1, "": rand.Uint64()} {
		c := &chaos{seed: seed, duration: 4 * time.Second, largeTx: 5000, out: t.Output(), verbose: true, only: only}
		if err := c.prove(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
}
