package walchan_test

import (
	"context"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// At a stop the connection is on trial, and the last transaction comes within the moment that takeIn has.
func TestStopTakesInTheProof(t *testing.T) {
	var stop chan struct{}
	first := tx(1, 0x200, "a")
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		stop = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		s, err := walchan.Subscribe(ctx, fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure))
		must(t, err)
		m := <-s.C()
		time.Sleep(time.Second)
		restart(srv, 0x100)
		time.Sleep(10 * time.Second)
		s.Ack(m)
		time.Sleep(10 * time.Second)
		close(stop)
		cancel()
		endsAt(t, s, srv, first.End)
	}, whole([]fakewal.Tx{first}), func(c *fakewal.Conn) error {
		<-stop
		time.Sleep(100 * time.Microsecond)
		return c.Play(first.Frames()...)
	})
}

// At a stop the first transaction behind WithUntil comes within that moment.
func TestStopTakesInTheEnd(t *testing.T) {
	var stop chan struct{}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		stop = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		s, err := walchan.Subscribe(ctx, fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure), walchan.WithUntil(0x300))
		must(t, err)
		s.Ack(<-s.C())
		time.Sleep(10 * time.Second)
		close(stop)
		cancel()
		endsAt(t, s, srv, 0x300)
	}, func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, "a").Frames()...); err != nil {
			return err
		}
		<-stop
		time.Sleep(100 * time.Microsecond)
		return c.Play(tx(2, 0x400, "b").Frames()...)
	})
}

// endsAt waits for the end of a stream, and wants the slot to be at lsn then.
func endsAt(t *testing.T, s *walchan.Stream, srv *fakewal.Server, lsn walchan.LSN) {
	t.Helper()
	for range s.C() {
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != lsn {
		t.Errorf("the slot is at %s, want %s", slot.ConfirmedFlush, lsn)
	}
}
