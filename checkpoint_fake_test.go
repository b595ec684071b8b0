package walchan_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/resume"
)

// restart has the server be another one, or the same after a restart: nobody can tell.
func restart(srv *fakewal.Server, slot walchan.LSN) {
	srv.Update(func(st *fakewal.State) {
		st.Started = st.Started.Add(time.Hour)
		st.Slots["p"].ConfirmedFlush = slot
	})
	srv.CloseConns()
}

// awaitSlot waits until the slot is at lsn.
func awaitSlot(t *testing.T, srv *fakewal.Server, lsn walchan.LSN) {
	t.Helper()
	for range 100_000 {
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush == lsn {
			return
		}
		time.Sleep(time.Millisecond)
	}
	slot, _ := srv.Slot("p")
	t.Fatalf("the slot is at %s, not at %s", slot.ConfirmedFlush, lsn)
}

// After a reconnect to a server that was restarted the last transaction comes again, or it is another history.
func TestAfterAReconnect(t *testing.T) {
	first := tx(1, 0x200, "a")
	late := first
	late.At = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	other := tx(9, 0x200, "a")
	next := tx(2, 0x600, "b")
	for name, c := range map[string]struct {
		log  []fakewal.Tx
		slot walchan.LSN // where the server's slot is then
		want error
	}{
		"it comes again":           {[]fakewal.Tx{first, next}, 0x200, nil},
		"another one is there":     {[]fakewal.Tx{other, next}, 0x200, walchan.ErrDiverged},
		"its time is another":      {[]fakewal.Tx{late, next}, 0x200, walchan.ErrDiverged},
		"it does not come":         {[]fakewal.Tx{next}, 0x200, walchan.ErrUnproven},
		"the slot stands after it": {[]fakewal.Tx{next}, 0x2b0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv)
				receive(t, s, 1, true)
				awaitSlot(t, srv, 0x900)
				restart(srv, c.slot)
				if c.want == nil {
					if got := receive(t, s, 1, true); got[0] != "2:b" {
						t.Error(got)
					}
					finish(t, s)
					return
				}
				for m := range s.C() {
					t.Errorf("%v came from another history", m)
				}
				if err := s.Err(); !errors.Is(err, c.want) {
					t.Errorf("error is %v", err)
				}
				if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != c.slot {
					t.Errorf("the server was told %s", slot.ConfirmedFlush)
				}
				s.Close()
			}, func(c *fakewal.Conn) error {
				if err := c.Play(first.Frames()...); err != nil {
					return err
				}
				return c.Keepalive(0x900, false)
			}, func(conn *fakewal.Conn) error {
				// The position of the keepalive is not told before the transaction has come: it may be another's.
				status, err := conn.ReadStatus()
				if err != nil {
					return err
				}
				if status.Flush > max(c.slot, 0x2b0) {
					t.Errorf("at first the server was told %s", status.Flush)
				}
				return play(conn, c.log, 1<<20)
			})
		})
	}
}

// checkpointOf is the checkpoint of a consumer that has everything up to 0x100.
func checkpointOf(t *testing.T, srv *fakewal.Server) walchan.Checkpoint {
	t.Helper()
	c := resume.Checkpoint{Point: resume.Point{Through: 0x100}}
	srv.Update(func(st *fakewal.State) {
		c.Origin = resume.Origin{SystemID: st.SystemID, Database: "fakewal", Slot: "p", Timeline: st.Timeline, Started: st.Started.UnixMicro()}
	})
	given, err := walchan.ParseCheckpoint(c.String())
	if err != nil {
		t.Fatal(err)
	}
	return given
}

// checkpointed opens a stream that begins there.
func checkpointed(t *testing.T, srv *fakewal.Server, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	return subscribeTo(t, srv, append(opts, walchan.WithCheckpoint(checkpointOf(t, srv)))...)
}

// next takes a message of a kind.
func nextOf(t *testing.T, s *walchan.Stream, kind walchan.Kind) walchan.Message {
	t.Helper()
	select {
	case m, ok := <-s.C():
		if !ok || m.Kind != kind {
			t.Fatalf("there came %v, %v; want %v; %v", m, ok, kind, s.Err())
		}
		return m
	case <-time.After(time.Hour):
		t.Fatalf("no %v came: %+v", kind, s.Stats())
	}
	panic("not reached")
}

// The last row of a transaction says that it is: its checkpoint, once stored, covers all of it.
func TestCheckpointedLastRow(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := checkpointed(t, srv)
		for i, through := range []string{"0/100", "0/100", "0/2B0"} {
			m := nextOf(t, s, walchan.Insert)
			if fields := strings.Split(m.Checkpoint().String(), ":"); fields[6] != through || fields[7] != "0/280" {
				t.Errorf("row %d: %v, want through %s", i, fields, through)
			}
			s.Ack(m)
		}
		awaitSlot(t, srv, 0x2b0)
		finish(t, s)
	}, whole([]fakewal.Tx{tx(1, 0x200, "a", "b", "c")}))
}

// A keepalive's position is confirmed once a checkpoint is stored that covers it, and not before.
func TestCheckpointedProgress(t *testing.T) {
	const far = 0x100 + 17<<20
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := checkpointed(t, srv)
		row := nextOf(t, s, walchan.Insert)
		s.Ack(row)
		awaitSlot(t, srv, 0x2b0)
		m := nextOf(t, s, walchan.Progress)
		if m.LSN != far {
			t.Errorf("it is at %s", m.LSN)
		}
		s.Skip(m)
		time.Sleep(time.Minute)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x2b0 {
			t.Errorf("a skipped one was confirmed: %s", slot.ConfirmedFlush)
		}
		c := s.Checkpoint()
		if c != m.Checkpoint() || c.Position() != row.Checkpoint().Position() {
			t.Errorf("the stream is at %v, want %v", c, m.Checkpoint())
		}
		s.Stored(c)
		awaitSlot(t, srv, far)
		nothingMore(t, s)
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, "a").Frames()...); err != nil {
			return err
		}
		for _, lsn := range []walchan.LSN{0x2000, far, far + 0x100} { // the first and the last are too near
			if err := c.Keepalive(lsn, false); err != nil {
				return err
			}
			time.Sleep(5 * time.Second)
		}
		return nil
	})
}

// A slot that moves on by less moves on after a while, too, and then stays where it is: storing a checkpoint writes WAL itself.
func TestCheckpointedProgressInQuietMoments(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := checkpointed(t, srv)
		began := time.Now()
		m := nextOf(t, s, walchan.Progress)
		if d := time.Since(began); m.LSN != 0x20000 || d < 50*time.Second || d > 70*time.Second {
			t.Errorf("%s came after %v", m.LSN, d)
		}
		s.Ack(m)
		awaitSlot(t, srv, 0x20000)
		nothingMore(t, s)
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		if err := c.Keepalive(0x20000, false); err != nil {
			return err
		}
		time.Sleep(5 * time.Minute)
		return c.Keepalive(0x20000+60<<10, false)
	})
}

// A server that stops asks and asks until everything it has sent is confirmed; then it may go.
func TestCheckpointedServerStops(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := checkpointed(t, srv)
		began := time.Now()
		s.Ack(nextOf(t, s, walchan.Progress))
		awaitSlot(t, srv, 0x2000)
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
		s.Close()
	}, func(c *fakewal.Conn) error {
		for range 10 {
			if err := c.Keepalive(0x2000, true); err != nil {
				return err
			}
			if _, err := c.ReadStatus(); err != nil {
				return err
			}
		}
		return nil
	})
}

// A COMMIT may wait for the position of a keepalive, too.
func TestCheckpointedSynchronousStandby(t *testing.T) {
	for _, names := range []string{"*", "walchan", `FIRST 2 (other, "Walchan")`, "ANY 1 (a,walchan)", "other, walchan"} {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			srv.Update(func(st *fakewal.State) { st.Settings["synchronous_standby_names"] = names })
			s := checkpointed(t, srv)
			s.Ack(nextOf(t, s, walchan.Progress))
			awaitSlot(t, srv, 0x2000)
			nothingMore(t, s)
			finish(t, s)
		}, func(c *fakewal.Conn) error { return c.Keepalive(0x2000, false) })
	}
	for _, names := range []string{"", "other", `"walchan "`, "walchan2"} {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			srv.Update(func(st *fakewal.State) { st.Settings["synchronous_standby_names"] = names })
			s := checkpointed(t, srv)
			nothingMore(t, s)
			finish(t, s)
		}, func(c *fakewal.Conn) error { return c.Keepalive(0x2000, false) })
	}
}

// What a consumer skips is confirmed once the checkpoint of a later message is stored.
func TestCheckpointedSkip(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := checkpointed(t, srv)
		s.Skip(nextOf(t, s, walchan.Insert))
		s.Skip(nextOf(t, s, walchan.Insert))
		m := nextOf(t, s, walchan.Insert)
		time.Sleep(time.Minute)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x100 {
			t.Errorf("skipped rows were confirmed: %s", slot.ConfirmedFlush)
		}
		s.Ack(m)
		awaitSlot(t, srv, 0x4b0)
		finish(t, s)
	}, whole([]fakewal.Tx{tx(1, 0x200, "a"), tx(2, 0x300, "b"), tx(3, 0x400, "c")}))
}

func TestCheckpointOfAnotherSource(t *testing.T) {
	given := func(edit func(*resume.Checkpoint)) walchan.Checkpoint {
		c := resume.Checkpoint{Origin: resume.Origin{SystemID: "7000000000000000001", Database: "fakewal", Slot: "p", Timeline: 1}, Point: resume.Point{Through: 0x100}}
		edit(&c)
		cp, err := walchan.ParseCheckpoint(c.String())
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	for name, c := range map[string]struct {
		checkpoint walchan.Checkpoint
		want       error
	}{
		"another cluster":      {given(func(c *resume.Checkpoint) { c.SystemID = "7" }), walchan.ErrCheckpoint},
		"another database":     {given(func(c *resume.Checkpoint) { c.Database = "x" }), walchan.ErrCheckpoint},
		"another slot":         {given(func(c *resume.Checkpoint) { c.Slot = "x" }), walchan.ErrCheckpoint},
		"a physical stream":    {given(func(c *resume.Checkpoint) { c.Physical = true; c.Database = "" }), walchan.ErrCheckpoint},
		"none":                 {walchan.Checkpoint{}, walchan.ErrCheckpoint},
		"an older target":      {given(func(c *resume.Checkpoint) { c.Through = 0xff }), walchan.ErrSlotMoved},
		"beyond the WAL":       {given(func(c *resume.Checkpoint) { c.Commit, c.XID = 0x2000000, 7 }), walchan.ErrDiverged},
		"a newer timeline":     {given(func(c *resume.Checkpoint) { c.Timeline = 2 }), walchan.ErrDiverged},
		"what it is to be":     {given(func(*resume.Checkpoint) {}), nil},
		"an old position":      {given(func(c *resume.Checkpoint) { c.Through, c.Commit, c.Ordinal = 0, 0x80, 3 }), nil},
		"a standby's timeline": {given(func(c *resume.Checkpoint) { c.Timeline = 0 }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s, err := walchan.Subscribe(t.Context(), fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure),
					walchan.WithCheckpoint(c.checkpoint))
				if !errors.Is(err, c.want) {
					t.Errorf("error is %v, want %v", err, c.want)
				}
				if err != nil {
					t.Log(err)
					return
				}
				if got := receive(t, s, 1, true); !slices.Equal(got, []string{"1:a"}) {
					t.Error(got)
				}
				finish(t, s)
			}, whole([]fakewal.Tx{tx(1, 0x200, "a")}))
		})
	}
}

// A consumer may take its time to say what it has stored. The server is told that it lives.
func TestCheckpointThatTakesItsTime(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		given := checkpointOf(t, srv)
		s := subscribeTo(t, srv, walchan.WithCheckpointFrom(func(ctx context.Context) (walchan.Checkpoint, error) {
			time.Sleep(10 * time.Minute) // ten times as long as the server waits for a client
			return given, ctx.Err()
		}))
		if got := receive(t, s, 1, true); got[0] != "1:a" {
			t.Error(got)
		}
		finish(t, s)
		if n := len(srv.Starts()); n != 1 {
			t.Errorf("%d connections", n)
		}
	}, whole([]fakewal.Tx{tx(1, 0x200, "a")}))
}

// Nothing proves the history, and nothing disproves it: the slot stands after the last transaction, but not where it was left.
func TestProof(t *testing.T) {
	for name, c := range map[string]struct {
		opts []walchan.Option
		want error
	}{
		"not said": {nil, nil},
		"required": {[]walchan.Option{walchan.WithProof(true)}, walchan.ErrUnproven},
		"waived":   {[]walchan.Option{walchan.WithProof(false)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				given := edited(t, checkpointOf(t, srv), func(c *resume.Checkpoint) {
					c.Through, c.Commit, c.XID, c.Time, c.Ordinal, c.Started = 0x180, 0x80, 7, 1, 2, 1
				})
				s, err := walchan.Subscribe(t.Context(), fakewal.DSN, append(c.opts, walchan.WithSlot("p"), walchan.WithPublication("p"),
					walchan.WithConnect(srv.Configure), walchan.WithCheckpoint(given))...)
				if !errors.Is(err, c.want) {
					t.Errorf("error is %v", err)
				}
				if err != nil {
					return
				}
				if !s.Stats().Unproven {
					t.Error("Stats do not say that it is unproven")
				}
				finish(t, s)
			}, whole([]fakewal.Tx{tx(1, 0x200, "a")}))
		})
	}
}

// The last transaction should come again, and does not.
func TestProofOfWhatDoesNotCome(t *testing.T) {
	for waived, want := range map[bool]error{false: walchan.ErrUnproven, true: nil} {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			given := edited(t, checkpointOf(t, srv), func(c *resume.Checkpoint) {
				c.Through, c.Commit, c.XID, c.Time, c.Ordinal, c.Started = 0x100, 0x180, 7, 1, 2, 1
			})
			opts := []walchan.Option{walchan.WithCheckpoint(given)}
			if waived {
				opts = append(opts, walchan.WithProof(false))
			}
			s := subscribeTo(t, srv, opts...)
			if want == nil {
				if got := receive(t, s, 1, true); got[0] != "1:a" || !s.Stats().Unproven {
					t.Errorf("%v, %+v", got, s.Stats())
				}
			} else if m, ok := <-s.C(); ok || !errors.Is(s.Err(), want) {
				t.Errorf("%v, %v", m, s.Err())
			}
			s.Close()
		}, whole([]fakewal.Tx{tx(1, 0x200, "a")}))
	}
}

func edited(t *testing.T, given walchan.Checkpoint, edit func(*resume.Checkpoint)) walchan.Checkpoint {
	t.Helper()
	c, err := resume.Parse(given.String())
	if err != nil {
		t.Fatal(err)
	}
	edit(&c)
	if given, err = walchan.ParseCheckpoint(c.String()); err != nil {
		t.Fatal(err)
	}
	return given
}

// pg_upgrade makes another cluster of a cluster, with the same transactions and other positions.
func TestUpgraded(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*resume.Checkpoint)
		status string // of the last transaction in the new cluster
		opts   []walchan.Option
		want   error
	}{
		"said":                       {nil, "committed", []walchan.Option{walchan.WithUpgradedFrom("old")}, nil},
		"not said":                   {nil, "committed", nil, walchan.ErrCheckpoint},
		"of another cluster":         {nil, "committed", []walchan.Option{walchan.WithUpgradedFrom("other")}, walchan.ErrCheckpoint},
		"its transaction is missing": {nil, "aborted", []walchan.Option{walchan.WithUpgradedFrom("old")}, walchan.ErrCheckpoint},
		"not complete": {func(c *resume.Checkpoint) { c.Through = 0x60 }, "committed",
			[]walchan.Option{walchan.WithUpgradedFrom("old")}, walchan.ErrCheckpoint},
		"the slot is before it": {func(c *resume.Checkpoint) { c.Through = 0x101 }, "committed",
			[]walchan.Option{walchan.WithUpgradedFrom("old")}, walchan.ErrCheckpoint},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				srv.Update(func(st *fakewal.State) {
					st.Query = func(_ *fakewal.Conn, sql string) (*fakewal.Result, error) {
						switch {
						case strings.Contains(sql, "pg_snapshot_xmax"):
							return &fakewal.Result{Columns: []string{"x"}, Rows: [][]any{{"1000"}}}, nil
						case strings.Contains(sql, "pg_xact_status('700'"):
							return &fakewal.Result{Columns: []string{"x"}, Rows: [][]any{{c.status}}}, nil
						}
						return nil, nil
					}
				})
				given := edited(t, checkpointOf(t, srv), func(cp *resume.Checkpoint) {
					cp.SystemID, cp.Through, cp.Commit, cp.XID, cp.Time, cp.Ordinal = "old", 0x90, 0x80, 700, 1, 2
					if c.edit != nil {
						c.edit(cp)
					}
				})
				s, err := walchan.Subscribe(t.Context(), fakewal.DSN, append(c.opts, walchan.WithSlot("p"), walchan.WithPublication("p"),
					walchan.WithConnect(srv.Configure), walchan.WithCheckpoint(given))...)
				if !errors.Is(err, c.want) {
					t.Errorf("error is %v", err)
				}
				if err != nil {
					return
				}
				if got := receive(t, s, 1, true); got[0] != "1:a" {
					t.Error(got)
				}
				finish(t, s)
			}, whole([]fakewal.Tx{tx(1, 0x200, "a")}))
		})
	}
}
