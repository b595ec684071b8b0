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
	if os.Getenv("WALCHAN_CHAOS") == "" {
		t.Skip("its reference reads past the last marker, and its check of Stats takes a position that a restarted server took back for an error: run make chaos, or set WALCHAN_CHAOS")
	}
	for _, seed := range []uint64{1, rand.Uint64()} {
		c := &chaos{seed: seed, duration: 10 * time.Second, largeTx: 5000, out: t.Output(), verbose: true, only: noFailover}
		if err := c.prove(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
}
