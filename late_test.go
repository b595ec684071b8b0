package walchan_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// A stream that is behind lets messages pile up before it reads. Where there are few it must not wait for more: neither for a
// row, nor for the answer to its farewell.
func TestALateStreamDoesNotWaitForMore(t *testing.T) {
	noLeaks(t)
	srv := fakewal.New()
	srv.Update(func(s *fakewal.State) {
		s.Publications = []string{"p"}
		s.Slots["p"] = fakewal.LogicalSlot(0x100)
	})
	const rows = 20
	frames := tx(700, 0x1000, slices.Repeat([]any{"1"}, rows)...).Frames() // committed in the year 2000
	received := make(chan bool, 1)
	srv.Serve(func(c *fakewal.Conn) error {
		for i, f := range frames { // Begin, Relation, rows, Commit
			if err := c.Play(f); err != nil {
				return err
			}
			if i < 2 || i >= 2+rows {
				continue
			}
			select {
			case <-received:
			case <-c.Done():
				return fakewal.ErrGone
			}
		}
		_, err := c.AwaitFlush(frames[len(frames)-1].End)
		return err
	})
	if _, err := srv.Listen(); err != nil { // TCP, for in memory nothing piles up
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience) // of less than four status intervals
	defer cancel()
	s, err := walchan.Subscribe(ctx, fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure))
	if err != nil {
		t.Fatal(err)
	}
	for n := range rows {
		m, ok := <-s.C()
		if !ok {
			t.Fatalf("%d of %d rows in %v", n, rows, patience)
		}
		s.Ack(m)
		received <- true
	}
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("Close took %v: it waited for an answer that had come until its own timeout, 5 s", d)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

// A stream that ends where it was to end does not wait for more, either.
func TestALateStreamEndsAtOnce(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 2000)
	time.Sleep(50 * time.Millisecond) // that is late
	s := open(t, t.Context(), db, walchan.WithUntilNow())
	ackAll(s, take(t, s, 2000))
	rest(t, s)
	began := time.Now()
	mustClose(t, s)
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("Close took %v: it waited for an answer that had come until its own timeout, 5 s", d)
	}
}
