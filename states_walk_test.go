package walchan_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// The tests of the states. TestMain sees to it that all tests together walk the whole table, and leave it nowhere.

// stateLog is what a stream's hook is told.
type stateLog struct {
	mu  sync.Mutex
	all []string
}

func (l *stateLog) option() walchan.Option {
	return walchan.WithStateHook(func(st walchan.Stats) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if s := st.State.String(); len(l.all) == 0 || l.all[len(l.all)-1] != s {
			l.all = append(l.all, s)
		}
	})
}

func (l *stateLog) want(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.all, want) {
		t.Errorf("the states were %q, want %q", l.all, want)
	}
}

var garbage = []byte{'d', 0, 0, 0, 4 + 25 + 1, 'w', 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, '?'}

// playRows plays transactions of a row each, with a pause before each but the first.
func playRows(c *fakewal.Conn, n int, pause time.Duration) error {
	for i := range n {
		if i > 0 {
			time.Sleep(pause)
		}
		if err := c.Play(tx(uint32(i+1), walchan.LSN(0x200+0x100*i), "row").Frames()...); err != nil {
			return err
		}
	}
	return nil
}

// A stream is led from state to state.
func TestStatesFollowOneAnother(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		var states stateLog
		s := subscribeTo(t, srv, walchan.WithBuffer(1, 1<<20), walchan.WithMaxUnacked(2), states.option())
		time.Sleep(15 * time.Second)
		first := <-s.C() // it blocked the second
		time.Sleep(10 * time.Second)
		second := <-s.C() // the third waits for acknowledgements
		time.Sleep(time.Second)
		s.Ack(first)
		s.Ack(second)
		time.Sleep(10 * time.Second)
		s.Close()
		states.want(t, "streaming", "idle", "blocked", "streaming", "idle", "unacked", "streaming", "idle", "closed")
	}, func(c *fakewal.Conn) error {
		if err := playRows(c, 3, 10*time.Second); err != nil {
			return err
		}
		time.Sleep(10 * time.Second)
		return c.Raw(garbage)
	})
}

// A stream that waits for acknowledgements gets them, and then waits for the consumer.
func TestStateAfterAcknowledgements(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		var states stateLog
		s := subscribeTo(t, srv, walchan.WithBuffer(1, 1<<20), walchan.WithMaxUnacked(2), states.option())
		first := <-s.C()
		time.Sleep(3 * time.Second)
		s.Ack(first)
		time.Sleep(3 * time.Second)
		s.Close()
		states.want(t, "streaming", "unacked", "blocked", "draining", "closed")
	}, func(c *fakewal.Conn) error {
		if err := playRows(c, 3, 10*time.Millisecond); err != nil {
			return err
		}
		<-c.Done()
		return nil
	})
}

// From each state a lost connection leads to a new attempt, and a stop to the end.
func TestStatesEnd(t *testing.T) {
	for _, state := range []string{"streaming", "idle", "blocked", "unacked"} {
		for _, end := range []string{"retrying", "draining", "closed"} {
			if end == "closed" && (state == "blocked" || state == "unacked") {
				continue // nothing is read then that could end the stream
			}
			t.Run(fmt.Sprint(state, " to ", end), func(t *testing.T) {
				bubble(t, func(t *testing.T, srv *fakewal.Server) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					opts := []walchan.Option{walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure)}
					switch state {
					case "blocked":
						opts = append(opts, walchan.WithBuffer(1, 1<<20))
					case "unacked":
						opts = append(opts, walchan.WithMaxUnacked(1))
					}
					var states stateLog
					s, err := walchan.Subscribe(ctx, fakewal.DSN, append(opts, states.option())...)
					must(t, err)
					if state == "streaming" {
						time.Sleep(500 * time.Millisecond)
					} else {
						time.Sleep(3 * time.Second)
					}
					switch end {
					case "retrying":
						srv.CloseConns()
						time.Sleep(20 * time.Second) // until it has something to tell the server
					case "draining":
						cancel()
						time.Sleep(100 * time.Millisecond)
					default:
						time.Sleep(10 * time.Second)
					}
					want := slices.Compact([]string{"streaming", state, end})
					states.mu.Lock()
					got := states.all[:min(len(states.all), len(want))]
					states.mu.Unlock()
					if !slices.Equal(got, want) {
						t.Errorf("the states were %q, want %q", got, want)
					}
					s.Close()
				}, func(c *fakewal.Conn) error {
					if err := playRows(c, 2, 10*time.Millisecond); err != nil {
						return err
					}
					if end == "closed" {
						time.Sleep(500*time.Millisecond + 4*time.Second*time.Duration(btoi(state == "idle")))
						return c.Raw(garbage)
					}
					<-c.Done()
					return nil
				}, func(c *fakewal.Conn) error {
					<-c.Done()
					return nil
				})
			})
		}
	}
}
