package walchan

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/wal"
)

func TestLedgerZeroReceipt(t *testing.T) {
	var r Receipt
	r.Ack()
	r.AckThrough()
	Message{}.Receipt().Ack()
}

// The owner goes to sleep in the moment in which another acknowledges what it waits for. Were one wake-up lost it would sleep
// for ever.
func TestLedgerLosesNoWakeUp(t *testing.T) {
	for name, want := range map[string]ledger.Interest{"next mark": ledger.NextMark, "oldest": ledger.Oldest, "all": ledger.All} {
		for _, cumulative := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, cumulative %t", name, cumulative), func(t *testing.T) {
				s := &owner{Stream: &Stream{bell: bell{wakeup: make(chan struct{}, 1)}}}
				s.ledger = ledger.New(0, s.wake)
				sleepAndWake(t, s, want, cumulative)
			})
		}
	}
}

func sleepAndWake(t *testing.T, s *owner, want ledger.Interest, cumulative bool) {
	const rounds = 20_000
	r := rand.New(rand.NewPCG(uint64(want), 0))
	var work atomic.Pointer[[]ledger.Receipt]
	var ended atomic.Bool
	var acker sync.WaitGroup
	defer acker.Wait()
	defer ended.Store(true)
	acker.Go(func() {
		r := rand.New(rand.NewPCG(uint64(want), 1))
		for !ended.Load() {
			if some := work.Swap(nil); some != nil {
				dawdle(r)
				ackAll(*some, cumulative)
			} else {
				runtime.Gosched()
			}
		}
	})
	hung := time.NewTimer(time.Hour)
	for round := range rounds {
		some := make([]ledger.Receipt, 1+r.IntN(3))
		for i := range some {
			some[i] = s.ledger.Next()
			s.ledger.Delivered()
		}
		s.ledger.Mark(wal.LSN(round + 1))
		work.Store(&some)
		dawdle(r)
		for s.ledger.Advance() < wal.LSN(round+1) {
			if !s.sleep(waiting, &wait{interest: want}) {
				continue
			}
			hung.Reset(10 * time.Second)
			select {
			case <-s.wakeup:
			case <-hung.C:
				t.Fatalf("round %d: asleep, with %d outstanding: %+v", round, s.ledger.Outstanding(), s.ledger.Look(time.Now()))
			}
			s.asleep.Store(awake)
		}
	}
}

// The owner must announce its sleep before it looks whether there is a reason to stay awake: whoever comes between would find
// nobody asleep. That is a matter of single nanoseconds; so here the look is held up.
func TestSleepIsAnnouncedBeforeTheLook(t *testing.T) {
	s := &owner{Stream: &Stream{bell: bell{wakeup: make(chan struct{}, 1)}}}
	s.ledger = ledger.New(0, s.wake)
	r := s.ledger.Next()
	s.ledger.Delivered()
	s.ledger.Mark(1)
	release := s.ledger.Hold()
	asleep := make(chan bool)
	go func() { asleep <- s.sleep(waiting, &wait{interest: ledger.NextMark}) }()
	for deadline := time.Now().Add(10 * time.Second); s.asleep.Load() != waiting; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Error("it looks, and has not said that it is about to sleep")
			break
		}
	}
	r.Ack()
	release()
	if <-asleep {
		t.Error("it sleeps, although the message is acknowledged")
	}
}

func dawdle(r *rand.Rand) {
	for range r.IntN(100) {
		nothingAtAll()
	}
}

//go:noinline
func nothingAtAll() {}

func ackAll(some []ledger.Receipt, cumulative bool) {
	if cumulative {
		some[len(some)-1].AckThrough()
		return
	}
	for _, r := range some {
		r.Ack()
	}
}
