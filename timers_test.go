package walchan_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// These tests run a stream against a scripted walsender, in a bubble of testing/synctest: minutes of time-outs pass in
// milliseconds, and a goroutine left over fails the test.

var table = fakewal.Relation{OID: 16400, Schema: "public", Name: "t", Columns: []fakewal.Column{{Name: "id", Key: true, Type: 23, Mod: -1}}}

// tx is a transaction of rows.
func tx(xid uint32, at walchan.LSN, rows ...any) fakewal.Tx {
	x := fakewal.Tx{XID: xid, First: at, Commit: at + 0x80, End: at + 0xb0, Changes: [][]byte{table.Encode()}}
	for _, r := range rows {
		x.Changes = append(x.Changes, fakewal.Insert(table.OID, r))
	}
	return x
}

// bubble runs f with a server that has slot and publication "p", and plays the scripts.
func bubble(t *testing.T, f func(t *testing.T, srv *fakewal.Server), scripts ...fakewal.Script) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakewal.New()
		srv.Update(func(s *fakewal.State) {
			s.Publications = []string{"p"}
			s.Slots["p"] = fakewal.LogicalSlot(0x100)
		})
		srv.Serve(scripts...)
		f(t, srv)
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}

func subscribeTo(t *testing.T, srv *fakewal.Server, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	opts = append([]walchan.Option{walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure),
		walchan.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	s, err := walchan.Subscribe(t.Context(), fakewal.DSN, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func finish(t *testing.T, s *walchan.Stream) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStatusGoesOnWhileTheConsumerIsBlocked(t *testing.T) {
	var last fakewal.Status
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithBuffer(1, 1<<20))
		time.Sleep(time.Hour) // the fake hangs up after a minute without a status, as a server does
		if st := s.Stats(); st.State != walchan.StateBlocked || st.Reconnects != 0 {
			t.Errorf("after an hour: %+v", st)
		}
		for range 4 {
			s.Ack(<-s.C())
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		finish(t, s)
		if len(srv.Starts()) != 1 {
			t.Errorf("%d connections", len(srv.Starts()))
		}
	}, func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, "1", "2", "3", "4").Frames()...); err != nil {
			return err
		}
		var err error
		last, err = c.AwaitFlush(0x2b0)
		return err
	})
	if last.Flush != 0x2b0 || last.Write != 0x2b0 {
		t.Errorf("last status %+v", last)
	}
}

func TestStatusFollowsAnAcknowledgementWithinAMillisecond(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		for i := range 100 {
			m := <-s.C()
			time.Sleep(time.Duration(i) * 37 * time.Millisecond)
			s.Ack(m)
			acked := time.Now()
			for {
				slot, _ := srv.Slot("p")
				if slot.ConfirmedFlush == m.Tx.CommitLSN+0x30 {
					break
				}
				time.Sleep(50 * time.Microsecond)
			}
			if d := time.Since(acked); d > 2*time.Millisecond {
				t.Errorf("confirmed %v after the acknowledgement", d)
			}
		}
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		for i := range walchan.LSN(100) {
			if err := c.Play(tx(uint32(i), 0x200+i*0x100, "1").Frames()...); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestIdleStreamConfirmsWhatTheServerHasPassed(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		m := <-s.C()
		time.Sleep(time.Minute)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x100 {
			t.Errorf("confirmed %s while a message received before the keepalive is in hand", slot.ConfirmedFlush)
		}
		s.Ack(m)
		time.Sleep(time.Second)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x9000 {
			t.Errorf("confirmed %s, not the keepalive's position, after the acknowledgement", slot.ConfirmedFlush)
		}
		if st := s.Stats(); st.State != walchan.StateIdle || st.LagBytes != 0x1000000-0x9000 {
			t.Errorf("idle: %+v", st)
		}
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, "1").Frames()...); err != nil {
			return err
		}
		return c.Keepalive(0x9000, false)
	})
}

func TestSilentServerIsAskedAndThenReplaced(t *testing.T) {
	for _, busy := range []bool{false, true} {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			if busy {
				srv.Update(func(s *fakewal.State) { s.Waiting, s.SenderTimeout = [2]string{"IO", "ReorderBufferRead"}, 0 })
			}
			began := time.Now()
			var noticed time.Duration
			s := subscribeTo(t, srv, walchan.WithReceiveTimeout(30*time.Second), walchan.WithStateHook(func(st walchan.Stats) {
				if st.State == walchan.StateRetrying && noticed == 0 {
					noticed = time.Since(began)
				}
			}))
			m := <-s.C() // over a new connection not before the server has given the slot free
			s.Ack(m)
			switch {
			case busy && (noticed != 0 || len(srv.Starts()) != 1):
				t.Errorf("a server that is busy decoding was not left in peace: dropped after %v, %d connections", noticed, len(srv.Starts()))
			case !busy && (noticed < 30*time.Second || noticed > 31*time.Second || len(srv.Starts()) != 2):
				t.Errorf("a dead connection was noticed after %v, %d connections", noticed, len(srv.Starts()))
			}
			finish(t, s)
		}, func(c *fakewal.Conn) error {
			if busy {
				c.Busy(10 * time.Minute)
			} else {
				c.Stall()
				return nil
			}
			return c.Play(tx(1, 0x200, "1").Frames()...)
		}, func(c *fakewal.Conn) error { return c.Play(tx(1, 0x200, "1").Frames()...) })
	}
}

func TestReconnectsForEverAndResetsItsDelay(t *testing.T) {
	var mu sync.Mutex
	var delays []time.Duration
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithStateHook(func(st walchan.Stats) {
			if st.State == walchan.StateRetrying {
				mu.Lock()
				delays = append(delays, st.Delay)
				mu.Unlock()
			}
		}))
		down := errors.New("network is down")
		srv.Update(func(st *fakewal.State) { st.Dial = func(context.Context) error { return down } })
		srv.CloseConns()
		time.Sleep(24 * time.Hour)
		st := s.Stats()
		if st.State != walchan.StateRetrying || !errors.Is(st.Err, down) || st.Attempt < 1000 {
			t.Errorf("after a day: %+v", st)
		}
		srv.Update(func(st *fakewal.State) { st.Dial = nil })
		m := <-s.C()
		s.Ack(m)
		if st := s.Stats(); st.Attempt != 0 || st.Err != nil || st.Reconnects != 1 {
			t.Errorf("connected again: %+v", st)
		}
		n := len(delays)
		time.Sleep(time.Second)
		srv.CloseConns()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if delays[0] > 150*time.Millisecond || delays[n-1] < 15*time.Second || delays[n-1] > 45*time.Second || delays[n] > 150*time.Millisecond {
			t.Errorf("delays: first %v, last %v, after success %v", delays[0], delays[n-1], delays[n])
		}
		finish(t, s)
	}, nothing, func(c *fakewal.Conn) error { return c.Play(tx(1, 0x200, "1").Frames()...) }, nothing)
}

func nothing(*fakewal.Conn) error { return nil }

// A connection that breaks at every attempt at the same place is no success: the delay must not begin anew.
func TestOutageWithoutProgressSlowsDown(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		time.Sleep(10 * time.Minute)
		if n := len(srv.Starts()); n < 10 || n > 60 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		if st := s.Stats(); st.Attempt < 10 || st.Err == nil {
			t.Errorf("stuck: %+v", st)
		}
		s.Close()
	}, func(c *fakewal.Conn) error { return fakewal.Error("XX000", "could not map filenode") })
}

func TestStoppingServerIsLetGo(t *testing.T) {
	stopping := func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, "1").Frames()...); err != nil {
			return err
		}
		// A server that stops asks again as soon as it has an answer.
		for {
			if err := c.Keepalive(0x2b0, true); err != nil {
				return nil
			}
			if _, err := c.ReadStatus(); err != nil {
				return nil
			}
		}
	}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		began := time.Now()
		m := <-s.C()
		for len(srv.Starts()) < 2 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it was let go after %v", took)
		}
		s.Ack(m)
		finish(t, s)
	}, stopping, nothing)
	// What is acknowledged within the grace is confirmed before.
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		m := <-s.C()
		time.Sleep(1500 * time.Millisecond)
		s.Ack(m)
		if err := s.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x2b0 || len(srv.Starts()) != 1 {
			t.Errorf("confirmed %s, %d connections", slot.ConfirmedFlush, len(srv.Starts()))
		}
		finish(t, s)
	}, stopping, nothing)
}

// A server that has much to send before it can stop, over a slow network or because it decodes slowly, is let go as well:
// its data does not come without a pause, but nothing says either that it has come to the end.
func TestServerThatStopsWithABacklogIsLetGo(t *testing.T) {
	var gone atomic.Pointer[time.Time]
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		consumed := make(chan struct{})
		go func() {
			defer close(consumed)
			for m := range s.C() {
				s.Ack(m)
			}
		}()
		time.Sleep(time.Minute)
		if n := len(srv.Starts()); n != 1 {
			t.Errorf("%d connections before the server stops", n)
		}
		stopping := time.Now()
		srv.Update(func(st *fakewal.State) {
			st.Startup = func(*fakewal.Conn) error { return fakewal.Fatal("57P03", "the database system is shutting down") }
		})
		time.Sleep(time.Minute)
		if at := gone.Load(); at == nil || at.Sub(stopping) > 10*time.Second {
			t.Errorf("stopping since %v, hung up at %v", stopping, at)
		}
		s.Close()
		<-consumed
	}, func(c *fakewal.Conn) error {
		for i := walchan.LSN(0); ; i++ {
			if c.Play(tx(1, 0x200+i*0x100, "1").Frames()...) != nil {
				now := time.Now()
				gone.Store(&now)
				return nil
			}
			select {
			case <-c.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}
