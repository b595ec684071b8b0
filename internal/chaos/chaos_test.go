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
		c := &chaos{seed: seed, duration: 10 * time.Second, largeTx: 5000, only: noFailover, diary: diary{out: t.Output(), verbose: true}}
		if err := c.prove(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
}
