package line

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// onLine runs f with a line that streams from 0/100, and the server's end of it, in a bubble.
func onLine(t *testing.T, f func(t *testing.T, l *Line, srv *fakewal.Server, c *fakewal.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := fakewal.New()
		srv.Update(func(s *fakewal.State) {
			s.Publications = []string{"p"}
			s.Slots["p"] = fakewal.LogicalSlot(0x100)
		})
		streaming := make(chan *fakewal.Conn, 1)
		srv.Serve(func(c *fakewal.Conn) error {
			streaming <- c
			return nil
		})
		l := &Line{}
		l.Config = srv.Config()
		l.Config.RuntimeParams["application_name"] = "us"
		l.Address = "fakewal:5432"
		var err error
		if l.Conn, err = session.Dial(t.Context(), l.Config.Copy()); err != nil {
			t.Fatal(err)
		}
		is, err := begin.AskServer(t.Context(), l.Conn)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Start(t.Context(), begin.StartLogical("p", 0x100, map[string]string{"proto_version": "1", "publication_names": "p"})); err != nil {
			t.Fatal(err)
		}
		l.Meet(begin.Remote{Server: is}, link.Timers{Status: 10 * time.Second, Receive: time.Minute, Sender: time.Minute})
		l.Begin(time.Now(), 0x100, 0x100)
		f(t, l, srv, <-streaming)
		l.HangUp()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}

// told returns the flush position of the last status, and how many there were.
func told(c *fakewal.Conn) (wal.LSN, int) {
	synctest.Wait()
	all := c.Statuses()
	if len(all) == 0 {
		return 0, 0
	}
	return all[len(all)-1].Flush, len(all)
}

// A status is written when it is due, or must be, and never says more than the limit.
func TestLineReports(t *testing.T) {
	onLine(t, func(t *testing.T, l *Line, srv *fakewal.Server, c *fakewal.Conn) {
		began := time.Now()
		at := func(d time.Duration) time.Time { return began.Add(d) }
		const ms = time.Millisecond
		for _, step := range []struct {
			name      string
			now       time.Duration
			limit     wal.LSN
			confirmed wal.LSN
			must      bool
			told      wal.LSN
			statuses  int
			next      time.Duration
		}{
			{"the first is due at once", 0, NoLimit, 0x100, false, 0x100, 1, 20 * ms},
			{"there is no news", 5 * ms, NoLimit, 0x100, false, 0x100, 1, 20 * ms},
			{"it must be", 6 * ms, NoLimit, 0x100, true, 0x100, 2, 26 * ms},
			{"news waits for a millisecond", 6*ms + 500*time.Microsecond, NoLimit, 0x200, false, 0x100, 2, 7 * ms},
			{"and is told then", 7 * ms, NoLimit, 0x200, false, 0x200, 3, 27 * ms},
			{"on trial only the slot's position is told", 27 * ms, 0x200, 0x300, false, 0x200, 4, 54 * ms},
			{"also if it must be", 30 * ms, 0x200, 0x300, true, 0x200, 5, 60 * ms},
			{"after the trial all is", 31 * ms, NoLimit, 0x300, false, 0x300, 6, 62 * ms},
			{"the pause grows up to the interval", time.Minute, NoLimit, 0x300, false, 0x300, 7, 70 * time.Second},
		} {
			l.Limit = step.limit
			next, err := l.Report(step.confirmed, at(step.now), step.must)
			flush, n := told(c)
			if err != nil || flush != step.told || n != step.statuses || next != at(step.next) {
				t.Errorf("%s: told %s in %d statuses, the next after %v, %v; want %s, %d, %v", step.name, flush, n, next.Sub(began), err, step.told, step.statuses, step.next)
			}
		}
		l.Limit = 0x380
		if err := l.Farewell(0x400, time.Now().Add(time.Second)); err != nil {
			t.Error(err)
		}
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x380 {
			t.Errorf("the last status says %s, want the limit", slot.ConfirmedFlush)
		}
	})
}

// A position of 0 is told to nobody: programs other than PostgreSQL take it as all.
func TestLineDoesNotReportZero(t *testing.T) {
	onLine(t, func(t *testing.T, l *Line, _ *fakewal.Server, c *fakewal.Conn) {
		if _, err := l.Report(0, time.Now(), true); err != nil {
			t.Error(err)
		}
		if flush, n := told(c); n > 0 {
			t.Errorf("%s is told", flush)
		}
	})
}

// A silent server is asked at half of the timeout, and is in doubt after the whole of it, unless it was heard.
func TestLineSuspects(t *testing.T) {
	onLine(t, func(t *testing.T, l *Line, _ *fakewal.Server, c *fakewal.Conn) {
		began := time.Now()
		at := func(d time.Duration) time.Time { return began.Add(d) }
		for _, step := range []struct {
			now     time.Duration
			listen  bool // the server was not listened to until now
			asked   int  // so often
			inDoubt bool
			next    time.Duration
		}{
			{0, false, 0, false, 30 * time.Second},
			{30 * time.Second, false, 1, false, time.Minute},
			{45 * time.Second, false, 1, false, time.Minute},
			{time.Minute, false, 1, true, time.Minute},
			{61 * time.Second, true, 1, false, 91 * time.Second},
			{91 * time.Second, false, 2, false, 121 * time.Second},
		} {
			if step.listen {
				l.Listen(at(step.now))
			}
			inDoubt, next, err := l.Suspect(at(step.now))
			synctest.Wait()
			asked := 0
			for _, s := range c.Statuses() {
				if s.Reply {
					asked++
				}
			}
			if err != nil || inDoubt != step.inDoubt || asked != step.asked || next != at(step.next) {
				t.Errorf("after %v: in doubt %v, asked %d times, the next after %v, %v; want %v, %d, %v",
					step.now, inDoubt, asked, next.Sub(began), err, step.inDoubt, step.asked, step.next)
			}
		}
	})
}

// A server in doubt lives if its walsender is at work, and waits neither for the network nor for something to do.
func TestLineChecksWhetherTheServerIsBusy(t *testing.T) {
	for name, x := range map[string]struct {
		change func(l *Line, s *fakewal.State)
		why    string // "": it is busy
	}{
		"it computes":                 {func(_ *Line, s *fakewal.State) { s.Waiting = [2]string{} }, ""},
		"it reads":                    {func(_ *Line, s *fakewal.State) { s.Waiting = [2]string{"IO", "WALRead"} }, ""},
		"it waits for the client":     {func(_ *Line, s *fakewal.State) { s.Waiting = [2]string{"Client", "WalSenderWaitForWAL"} }, "its walsender waits (Client WalSenderWaitForWAL)"},
		"it waits for WAL":            {func(_ *Line, s *fakewal.State) { s.Waiting = [2]string{"Activity", "WalSenderMain"} }, "its walsender waits (Activity WalSenderMain)"},
		"another process has its PID": {func(l *Line, _ *fakewal.State) { l.BackendStart = "2001-01-01 00:00:00+00" }, "its walsender is gone"},
		"it is physical":              {func(l *Line, _ *fakewal.State) { l.BackendStart = "" }, "a walsender of physical replication does not decode"},
		"it cannot be asked": {func(_ *Line, s *fakewal.State) {
			s.Dial = func(context.Context) error { return errors.New("no route") }
		}, "no route"},
	} {
		t.Run(name, func(t *testing.T) {
			onLine(t, func(t *testing.T, l *Line, srv *fakewal.Server, _ *fakewal.Conn) {
				srv.Update(func(s *fakewal.State) { x.change(l, s) })
				err := l.CheckBusy(t.Context())
				switch {
				case x.why == "" && err != nil:
					t.Errorf("it is busy, and %v", err)
				case x.why != "" && (!errors.Is(err, walerr.Unreachable) || !strings.Contains(err.Error(), x.why)):
					t.Errorf("%v, want %s", err, x.why)
				}
			})
		})
	}
}

// A server that is stopping is let go after a grace, with a last status. It asks without a pause, or lets nobody in any more, which a probe
// finds out.
func TestLineLetsGo(t *testing.T) {
	type look struct {
		after time.Duration
		want  link.Step
	}
	const probeAfter = 3 * time.Second
	refuse := func(state string) func(c *fakewal.Conn) error {
		return func(*fakewal.Conn) error { return fakewal.Fatal(state, "the server does not let you in") }
	}
	for name, x := range map[string]struct {
		startup func(c *fakewal.Conn) error // of a probe
		pings   int
		looks   []look
		woken   int
	}{
		"it is well":            {nil, 0, []look{{0, link.Stay}, {probeAfter, link.Probe}, {0, link.Stay}, {probeAfter, link.Probe}}, 0},
		"it is full":            {refuse("53300"), 0, []look{{probeAfter, link.Probe}, {0, link.Stay}}, 0},
		"it is shutting down":   {refuse("57P03"), 0, []look{{probeAfter, link.Probe}, {0, link.Announce}, {link.Grace - 1, link.Stay}, {1, link.Leave}}, 1},
		"it asks now and then":  {nil, 3, []look{{0, link.Stay}}, 0},
		"it asks without pause": {nil, 4, []look{{0, link.Announce}, {link.Grace - 1, link.Stay}, {1, link.Leave}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onLine(t, func(t *testing.T, l *Line, srv *fakewal.Server, c *fakewal.Conn) {
				srv.Update(func(s *fakewal.State) { s.Startup = x.startup })
				if _, err := l.Report(0x100, time.Now(), true); err != nil {
					t.Error(err)
				}
				for range x.pings {
					l.Keepalive(&session.Frame{Keepalive: true, ReplyRequested: true, End: 0x100})
				}
				woken, statuses := 0, 1
				for i, look := range x.looks {
					time.Sleep(look.after)
					step, _, err := l.LetGo(t.Context(), time.Now(), func() { woken++ })
					if err != nil || step != look.want {
						t.Errorf("look %d: step %d, %v, want %d", i, step, err, look.want)
					}
					if step == link.Leave {
						statuses++
					}
					if _, n := told(c); n != statuses { // it has waited for the probe
						t.Errorf("look %d: %d statuses, want %d", i, n, statuses)
					}
				}
				if woken != x.woken {
					t.Errorf("woken %d times, want %d", woken, x.woken)
				}
			})
		})
	}
}

// Whether COMMITs may wait for the stream is looked up every 10 seconds. Only a change wakes the owner.
func TestLineLooksAtStandbys(t *testing.T) {
	onLine(t, func(t *testing.T, l *Line, srv *fakewal.Server, _ *fakewal.Conn) {
		for i, step := range []struct {
			after time.Duration
			names string
			is    bool
			woken int
		}{
			{lookPause / 2, "FIRST 1 (us)", false, 0},
			{lookPause / 2, "", false, 0},
			{lookPause / 2, "FIRST 1 (us)", false, 0},
			{lookPause / 2, "FIRST 1 (us)", true, 1},
			{lookPause, "us", true, 0},
			{lookPause, "other", false, 1},
		} {
			srv.Update(func(s *fakewal.State) { s.Settings["synchronous_standby_names"] = step.names })
			time.Sleep(step.after)
			woken := 0
			l.LookAtStandbys(t.Context(), time.Now(), func() { woken++ })
			synctest.Wait()
			if l.IsSynchronous() != step.is || woken != step.woken {
				t.Errorf("step %d: synchronous %v, woken %d times; want %v, %d", i, l.IsSynchronous(), woken, step.is, step.woken)
			}
		}
	})
}
