package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// play sends what a server sends of a log when a stream begins, as far as its n-th frame.
func play(c *fakewal.Conn, log []fakewal.Tx, n int) error {
	frames := fakewal.Since(log, c.Start.From)
	return c.Play(frames[:min(n, len(frames))]...)
}

func broken(log []fakewal.Tx, n int) fakewal.Script {
	return func(c *fakewal.Conn) error {
		if _, err := c.ReadStatus(); err != nil { // the first one comes unasked
			return err
		}
		if err := play(c, log, n); err != nil {
			return err
		}
		return errBreak(c)
	}
}

// errBreak waits until the stream has taken in what was sent, and breaks the connection.
func errBreak(c *fakewal.Conn) error {
	if err := c.Keepalive(0, true); err != nil {
		return err
	}
	if _, err := c.ReadStatus(); err != nil {
		return err
	}
	c.Reset()
	return nil
}

func whole(log []fakewal.Tx) fakewal.Script {
	return func(c *fakewal.Conn) error { return play(c, log, 1<<20) }
}

// receive takes n messages and describes them as "xid:value".
func receive(t *testing.T, s *walchan.Stream, n int, ack bool) (got []string) {
	t.Helper()
	for range n {
		select {
		case m, ok := <-s.C():
			if !ok {
				t.Fatalf("closed behind %v: %v", got, s.Err())
			}
			what := m.Kind.String()
			if m.Kind == walchan.Insert {
				what = m.New().Text(0)
			}
			if m.Tx != nil {
				what = fmt.Sprintf("%d:%s", m.Tx.XID, what)
				if m.Tx.Redelivered {
					what += " again"
				}
			}
			got = append(got, what)
			if ack {
				s.Ack(m)
			}
		case <-time.After(time.Hour):
			t.Fatalf("nothing behind %v: %+v", got, s.Stats())
		}
	}
	return got
}

// nothingMore waits an hour for a message that should not come.
func nothingMore(t *testing.T, s *walchan.Stream) {
	t.Helper()
	select {
	case m, ok := <-s.C():
		t.Errorf("there came %v (%v, %v)", m, ok, s.Err())
	case <-time.After(time.Hour):
	}
}

// The connection breaks behind every frame of three transactions, of which nothing is acknowledged: each change comes once.
func TestEachChangeOnceWhereverTheConnectionBreaks(t *testing.T) {
	log := []fakewal.Tx{tx(1, 0x200, "a", "b", "c"), tx(2, 0x300, "d"), tx(3, 0x400, "e", "f")}
	frames := len(fakewal.Since(log, 0))
	for _, acking := range []bool{false, true} {
		for n := range frames {
			for m := range frames {
				bubble(t, func(t *testing.T, srv *fakewal.Server) {
					s := subscribeTo(t, srv)
					got := receive(t, s, 6, acking)
					if want := []string{"1:a", "1:b", "1:c", "2:d", "3:e", "3:f"}; !slices.Equal(got, want) {
						t.Errorf("broken behind frames %d and %d: %v", n, m, got)
					}
					nothingMore(t, s)
					finish(t, s)
				}, broken(log, n), broken(log, m), whole(log))
			}
		}
	}
}

// The connection breaks while a message waits for the consumer: it comes once, over the next one.
func TestConnectionBreaksWhileAMessageWaits(t *testing.T) {
	log := []fakewal.Tx{tx(1, 0x200, "a", "b", "c"), tx(2, 0x300, "d"), tx(3, 0x400, "e", "f")}
	for taken := range 5 {
		for _, transactions := range []bool{false, true} {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				opts := []walchan.Option{walchan.WithBuffer(1, 1<<20)}
				want := []string{"1:a", "1:b", "1:c", "2:d", "3:e", "3:f"}
				if transactions {
					opts = append(opts, walchan.WithTransactions())
					want = []string{"1:begin", "1:a", "1:b", "1:c", "1:commit", "2:begin", "2:d", "2:commit", "3:begin", "3:e", "3:f", "3:commit"}
				}
				s := subscribeTo(t, srv, opts...)
				got := receive(t, s, taken, false)
				time.Sleep(time.Hour) // the break comes meanwhile
				got = append(got, receive(t, s, len(want)-taken, false)...)
				if !slices.Equal(got, want) {
					t.Errorf("%d were taken: %v", taken, got)
				}
				if s.Stats().Reconnects == 0 {
					t.Error("the connection did not break")
				}
				nothingMore(t, s)
				finish(t, s)
			}, func(c *fakewal.Conn) error {
				if err := play(c, log, 1<<20); err != nil {
					return err
				}
				time.Sleep(time.Minute)
				c.Reset()
				return nil
			}, whole(log))
		}
	}
}

// A transaction that is sent differently after a reconnect, because a publication was altered, must not lose a row to counting.
func TestTransactionSentDifferentlyComesAgainWhole(t *testing.T) {
	before := []fakewal.Tx{tx(1, 0x200, "a"), tx(2, 0x300, "b", "c", "d", "e"), tx(3, 0x400, "f")}
	for name, after := range map[string]struct {
		rows []any
		want []string
	}{
		"one row less":        {[]any{"c", "d", "e"}, []string{"1:a", "2:b", "2:c", "2:c again", "2:d again", "2:e again", "3:f"}},
		"one row more":        {[]any{"b", "x", "c", "d"}, []string{"1:a", "2:b", "2:c", "2:b again", "2:x again", "2:c again", "2:d again", "3:f"}},
		"shorter than before": {[]any{"b"}, []string{"1:a", "2:b", "2:c", "2:b again", "3:f"}},
		"nothing left of it":  {nil, []string{"1:a", "2:b", "2:c", "3:f"}},
		"the same":            {[]any{"b", "c", "d", "e"}, []string{"1:a", "2:b", "2:c", "2:d", "2:e", "3:f"}},
	} {
		t.Run(name, func(t *testing.T) {
			log := []fakewal.Tx{before[0], tx(2, 0x300, after.rows...), before[2]}
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv)
				if got := receive(t, s, len(after.want), false); !slices.Equal(got, after.want) {
					t.Errorf("got  %v\nwant %v", got, after.want)
				}
				nothingMore(t, s)
				s.Close()
			}, broken(before, 4+4), whole(log))
		})
	}
}

// A message outside of transactions can have the commit LSN of the transaction that follows it.
func TestMessageAtTheCommitOfTheNextTransaction(t *testing.T) {
	log := tx(1, 0x200, "a")
	message := fakewal.Frame{Start: log.Commit, Payload: fakewal.Message(false, log.Commit, "p", []byte("m"))}
	script := func(c *fakewal.Conn) error {
		if err := c.Play(message); err != nil {
			return err
		}
		return play(c, []fakewal.Tx{log}, 100)
	}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		if got, want := receive(t, s, 2, false), []string{"message", "1:a"}; !slices.Equal(got, want) {
			t.Error(got)
		}
		nothingMore(t, s)
		s.Close()
	}, func(c *fakewal.Conn) error {
		if _, err := c.ReadStatus(); err != nil {
			return err
		}
		if err := c.Play(message); err != nil {
			return err
		}
		return errBreak(c)
	}, script)
}

func TestResumesAtTheLastAcknowledgedTransaction(t *testing.T) {
	log := []fakewal.Tx{tx(1, 0x200, "a"), tx(2, 0x300, "b"), tx(3, 0x400, "c")}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		receive(t, s, 2, true)
		receive(t, s, 1, false)
		if err := s.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		srv.Update(func(st *fakewal.State) { st.Slots["p"].ConfirmedFlush = 0x200 }) // a crash rolled it back
		srv.CloseConns()
		nothingMore(t, s)
		starts := srv.Starts()
		if from := starts[len(starts)-1].From; from != 0x3b0 {
			t.Errorf("resumed at %s", from)
		}
		s.Close()
	}, whole(log))
}

func TestWhatCannotContinueIsPermanent(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fakewal.State)
		want   error
	}{
		"another cluster":   {func(s *fakewal.State) { s.SystemID = "8" }, walchan.ErrDiverged},
		"WAL behind us":     {func(s *fakewal.State) { s.WALEnd = 0x250 }, walchan.ErrDiverged},
		"an older timeline": {func(s *fakewal.State) { s.Timeline = 0 }, walchan.ErrDiverged},
		"a timeline forked early": {func(s *fakewal.State) {
			s.Timeline, s.Histories = 2, map[int32]string{2: "1\t0/280\tno recovery target specified\n"}
		}, walchan.ErrDiverged},
		"a timeline not of ours": {func(s *fakewal.State) {
			s.Timeline, s.Histories = 3, map[int32]string{3: "2\t0/900\tno recovery target specified\n"}
		}, walchan.ErrDiverged},
		"slot moved by another":  {func(s *fakewal.State) { s.Slots["p"].ConfirmedFlush = 0x900 }, walchan.ErrSlotMoved},
		"slot gone":              {func(s *fakewal.State) { delete(s.Slots, "p") }, walchan.ErrSlotMissing},
		"slot of another plugin": {func(s *fakewal.State) { s.Slots["p"].Plugin = "test_decoding" }, walchan.ErrSlotMismatch},
		"slot invalidated":       {func(s *fakewal.State) { s.Slots["p"].WALStatus = "lost" }, walchan.ErrSlotInvalidated},
		"publication gone":       {func(s *fakewal.State) { s.Publications = nil }, walchan.ErrPublicationMissing},
		"password changed": {func(s *fakewal.State) {
			s.Startup = func(*fakewal.Conn) error { return fakewal.Fatal("28P01", "password authentication failed") }
		}, walchan.ErrAuthentication},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv)
				receive(t, s, 2, true)
				s.Flush(t.Context())
				srv.Update(c.change)
				srv.CloseConns()
				for m := range s.C() {
					t.Errorf("there came %v", m)
				}
				if !errors.Is(s.Err(), c.want) {
					t.Errorf("error is %v", s.Err())
				}
				if st := s.Stats(); st.State != walchan.StateClosed || st.Err != s.Err() {
					t.Errorf("stats %+v", st)
				}
				s.Close()
			}, whole([]fakewal.Tx{tx(1, 0x200, "a"), tx(2, 0x300, "b")}), nothing)
		})
	}
}

// The new timeline has forked behind all that was delivered, but before a keepalive that was confirmed: what it has written
// from the fork on must not be skipped.
func TestNewTimelineIsReadFromTheFork(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		receive(t, s, 1, true)
		for slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x900; slot, _ = srv.Slot("p") {
			time.Sleep(time.Millisecond)
		}
		srv.Update(func(st *fakewal.State) {
			st.Timeline, st.Histories = 2, map[int32]string{2: "1\t0/500\tno recovery target specified\n"}
			st.Started = st.Started.Add(time.Hour)
			st.Slots["p"].ConfirmedFlush = 0x2b0 // as far as it was synchronised
		})
		srv.CloseConns()
		if got := receive(t, s, 1, true); got[0] != "2:b" {
			t.Error(got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x6b0 {
			t.Errorf("confirmed %s", slot.ConfirmedFlush)
		}
	}, func(c *fakewal.Conn) error {
		if err := play(c, []fakewal.Tx{tx(1, 0x200, "a")}, 100); err != nil {
			return err
		}
		return c.Keepalive(0x900, false)
	}, whole([]fakewal.Tx{tx(1, 0x200, "a"), tx(2, 0x600, "b")}))
}

func TestPassingErrorsAreRetried(t *testing.T) {
	for _, state := range []string{"57P01", "57P02", "57P03", "08006", "53300", "55006", "55000", "XX000", "58030", "40001", "25P02"} {
		t.Run(state, func(t *testing.T) {
			log := []fakewal.Tx{tx(1, 0x200, "a", "b")}
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv)
				if got := receive(t, s, 2, true); !slices.Equal(got, []string{"1:a", "1:b"}) {
					t.Error(got)
				}
				finish(t, s)
			}, func(c *fakewal.Conn) error {
				if err := play(c, log, 3); err != nil {
					return err
				}
				return fakewal.Error(state, "in the middle of the copy")
			}, whole(log))
		})
	}
}

func TestPermanentErrorsEndTheStreamBehindTheBuffer(t *testing.T) {
	for _, state := range []string{"42704", "58P01", "42501", "3D000", "57P04", "0A000"} {
		t.Run(state, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv)
				time.Sleep(time.Minute)
				var got int
				for range s.C() {
					got++
				}
				if got != 2 || s.Err() == nil {
					t.Errorf("%d messages, error %v", got, s.Err())
				}
				s.Close()
			}, func(c *fakewal.Conn) error {
				if err := play(c, []fakewal.Tx{tx(1, 0x200, "a", "b")}, 4); err != nil {
					return err
				}
				return fakewal.Error(state, "in the middle of the copy")
			})
		})
	}
}

func TestGarbageEndsTheStreamAndConfirmsNothingOfIt(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"unknown change":          {'d', 0, 0, 0, 4 + 25 + 1, 'w', 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, '?'},
		"truncated row":           {'d', 0, 0, 0, 4 + 25 + 8, 'w', 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'I', 0, 0, 0x40, 0x10, 'N', 0, 9},
		"row of an unknown table": append([]byte{'d', 0, 0, 0, 4 + 25 + 8, 'w', 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 'I', 0, 0, 0, 7, 'N', 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv)
				receive(t, s, 1, true)
				if _, ok := <-s.C(); ok || !errors.Is(s.Err(), walchan.ErrProtocol) {
					t.Errorf("error is %v", s.Err())
				}
				t.Log(s.Err())
				s.Close()
				if slot, _ := srv.Slot("p"); slot.ConfirmedFlush > 0x2b0 {
					t.Errorf("confirmed %s", slot.ConfirmedFlush)
				}
			}, func(c *fakewal.Conn) error {
				if err := play(c, []fakewal.Tx{tx(1, 0x200, "a")}, 100); err != nil {
					return err
				}
				return c.Raw(garbage)
			})
		})
	}
}

func TestRowOfAnotherWidthEndsTheStream(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		receive(t, s, 1, true)
		if _, ok := <-s.C(); ok {
			t.Error("the row is delivered")
		}
		check(t, s.Err(), walchan.ErrProtocol, "row of 2 columns", "which has 1")
		s.Close()
	}, func(c *fakewal.Conn) error {
		x := tx(1, 0x200, "a")
		x.Changes = append(x.Changes, fakewal.Insert(table.OID, "b", "c"))
		return play(c, []fakewal.Tx{x}, 100)
	})
}

// A frame that is cut in its middle, or that makes no sense as a frame, is a broken connection.
func TestBrokenFramesAreRetried(t *testing.T) {
	log := []fakewal.Tx{tx(1, 0x200, "a", "b")}
	frames := log[0].Frames()
	for cut := 1; cut < 30; cut += 4 {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			s := subscribeTo(t, srv)
			if got := receive(t, s, 2, true); !slices.Equal(got, []string{"1:a", "1:b"}) {
				t.Error(got)
			}
			finish(t, s)
		}, func(c *fakewal.Conn) error {
			if err := c.Play(frames[:3]...); err != nil {
				return err
			}
			return c.Cut(frames[3], cut)
		}, whole(log))
	}
}

// A connection that goes dead while the stream is being started must not cost longer than the user gives connecting.
func TestStartThatIsNotAnsweredIsBoundByConnectTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithConnect(func(ctx context.Context, cfg *pgconn.Config) error {
			cfg.ConnectTimeout = 5 * time.Second
			return srv.Configure(ctx, cfg)
		}))
		receive(t, s, 1, true)
		dead := true
		srv.Update(func(st *fakewal.State) {
			st.Query = func(c *fakewal.Conn, sql string) (*fakewal.Result, error) {
				if dead {
					dead = false
					c.Stall()
				}
				return nil, nil
			}
		})
		began := time.Now()
		srv.CloseConns()
		receive(t, s, 1, true)
		if d := time.Since(began); d > 12*time.Second {
			t.Errorf("back after %v", d)
		}
		finish(t, s)
	}, whole([]fakewal.Tx{tx(1, 0x200, "a")}), whole([]fakewal.Tx{tx(2, 0x300, "b")}))
}

// A consumer that stops behind the last change of a transaction should not see it again.
func TestStopTakesInTheCommitOfWhatWasDelivered(t *testing.T) {
	var closing chan struct{}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		closing = make(chan struct{})
		s := subscribeTo(t, srv)
		receive(t, s, 2, true)
		close(closing)
		finish(t, s)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x2b0 {
			t.Errorf("confirmed %s", slot.ConfirmedFlush)
		}
		for m := range s.C() {
			t.Errorf("behind the stop there came %v", m)
		}
	}, func(c *fakewal.Conn) error {
		frames := fakewal.Since([]fakewal.Tx{tx(1, 0x200, "a", "b"), tx(2, 0x300, "c")}, 0)
		if err := c.Play(frames[:4]...); err != nil {
			return err
		}
		<-closing
		time.Sleep(500 * time.Microsecond)
		return c.Play(frames[4:]...)
	})
}
