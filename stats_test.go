package walchan_test

import (
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

func TestStatsOfAQuietLifeAndItsEnd(t *testing.T) {
	db := newSource(t)
	s := subscribe(t, db, walchan.WithTransactions())
	began := slotAt(t, db)
	awaitState(t, s, walchan.StateIdle)
	if st := s.Stats(); st.Err != nil || st.Delivered+st.Unacked+st.Reconnects+st.LateAcks > 0 || st.Oldest != 0 || st.OldestAge != 0 || st.Confirmed < began {
		t.Errorf("idle: %+v", st)
	}
	insert(t, db, 1, 2, 1)
	ms := take(t, s, 4)
	await(t, s, "the commit is in", func() bool { return s.Stats().Received >= ms[3].End() })
	if st := s.Stats(); st.State != walchan.StateStreaming || st.Delivered != 4 || st.Unacked != 4 || st.Buffered != 0 || st.Oldest < ms[3].End() {
		t.Errorf("received: %+v, want 4 unacknowledged and the oldest up to %s", st, ms[3].End())
	}
	s.Ack(ms[1])
	if st := s.Stats(); st.Unacked != 3 || st.Acknowledged >= ms[3].End() {
		t.Errorf("one acknowledged: %+v", st)
	}
	ackAll(s, ms)
	flush(t, s)
	if st := s.Stats(); st.Unacked != 0 || st.Acknowledged < ms[3].End() || st.Confirmed < ms[3].End() || st.Oldest != 0 || st.OldestAge != 0 {
		t.Errorf("acknowledged: %+v", st)
	}
	mustClose(t, s)
	if st := s.Stats(); st.State != walchan.StateClosed || st.Err != nil || st.Delivered != 4 {
		t.Errorf("closed: %+v", st)
	}
}

// The age counts from the delivery, not from when the stream last looked at its watch.
func TestStatsOldestAge(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		s.Ack(<-s.C())
		m := <-s.C()
		if age := s.Stats().OldestAge; age != 0 {
			t.Errorf("a message that was delivered just now is %v old", age)
		}
		time.Sleep(time.Minute)
		if age := s.Stats().OldestAge; age != time.Minute {
			t.Errorf("a minute later it is %v old", age)
		}
		if lag := s.Stats().Lag; lag != time.Minute {
			t.Errorf("a minute later the lag is %v", lag)
		}
		s.Ack(m)
		if age := s.Stats().OldestAge; age != 0 {
			t.Errorf("acknowledged, it is %v old", age)
		}
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, "1").Frames()...); err != nil {
			return err
		}
		time.Sleep(2500 * time.Millisecond)
		return c.Play(tx(2, 0x300, "2").Frames()...)
	})
}

// What comes together with the server's answer is delivered before the stream has waited for anything.
func TestStatsAgeOfWhatComesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		time.Sleep(time.Hour)
		s := subscribeTo(t, srv)
		<-s.C()
		if age := s.Stats().OldestAge; age != 0 {
			t.Errorf("a message that was delivered just now is %v old", age)
		}
		finish(t, s)
	}, func(c *fakewal.Conn) error { return c.Play(tx(1, 0x200, "1").Frames()...) })
}

// A message that stays unacknowledged while later ones are not: Stats shows it.
func TestStatsOfAForgottenMessage(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 100)
	s := subscribe(t, db, walchan.WithTransactions())
	ms := take(t, s, 300)
	for i, m := range ms {
		if i != 151 { // the row of the 51st transaction
			s.Ack(m)
		}
	}
	flush(t, s)
	if st := s.Stats(); st.Unacked != 1 || st.Oldest != ms[152].End() || st.Confirmed != ms[149].End() || st.Acknowledged != st.Confirmed {
		t.Errorf("%+v, want oldest %s, confirmed %s", st, ms[152].End(), ms[149].End())
	}
}

func TestStatsWhileDisconnected(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	hold := make(chan struct{})
	p := &tap{t: t, hold: hold}
	s := open(t, t.Context(), db, p.option())
	next(t, s)
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	if st := s.Stats(); st.Err == nil || st.Attempt != 1 || st.Unacked != 1 {
		t.Errorf("%+v", st)
	}
	close(hold)
	await(t, s, "it is connected again", func() bool { return s.Stats().Reconnects == 1 })
	await(t, s, "it is connected again", func() bool { return s.Stats().State != walchan.StateRetrying })
	if st := s.Stats(); st.Err != nil {
		t.Errorf("%+v", st)
	}
}

// Stats may be asked at any time, by any goroutine, also after the end.
func TestStatsAtAnyTime(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 100, 30)
	s := subscribe(t, db)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for last := (walchan.Stats{}); ; {
			st := s.Stats()
			if st.Delivered < last.Delivered || st.Unacked > st.Delivered || st.Confirmed < last.Confirmed || st.Received < last.Received {
				t.Errorf("%+v after %+v", st, last)
			}
			last = st
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	ackAll(s, take(t, s, 3000))
	mustClose(t, s)
	close(stop)
	<-stopped
}

// Stats are taken while the stream goes on: what they say must be true together all the same.
func TestStatsAgreeWithEachOther(t *testing.T) {
	srv := fakewal.New()
	srv.Update(func(s *fakewal.State) {
		s.Publications = []string{"p"}
		s.Slots["p"] = fakewal.LogicalSlot(0x100)
	})
	const transactions = 5_000
	srv.Serve(func(c *fakewal.Conn) error {
		for i := range walchan.LSN(transactions) {
			if err := c.Play(tx(uint32(i), 0x200+i*0x100, "1").Frames()...); err != nil {
				return err
			}
		}
		return nil
	})
	s := subscribeTo(t, srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range transactions {
			s.Ack(<-s.C())
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if st := s.Stats(); st.Confirmed > st.Acknowledged || st.Unacked > st.Delivered {
			t.Fatalf("%+v", st)
		}
	}
	finish(t, s)
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}
