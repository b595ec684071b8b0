package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// The tests of two histories: a stream loses its server, and finds under the same name one whose WAL has gone another way, or
// perhaps has not. It must go on with each row once, or refuse. What it must never do is go on with a gap.

// history is a stream, and the name under which it finds its server.
type history struct {
	t      *testing.T
	name   chan *pgtest.Cluster // 1; the server that has the name. While there is none the stream waits.
	server *pgtest.Cluster      // the last one
	stream *walchan.Stream
}

// newHistory makes a server, as ownServer does, and a stream of it.
func newHistory(t *testing.T, opts ...pgtest.Option) (*history, *pgtest.Cluster) {
	t.Helper()
	db := ownServer(t, append([]pgtest.Option{pgtest.WithSetting("autovacuum", "off")}, opts...)...)
	return &history{t: t, name: make(chan *pgtest.Cluster, 1)}, db.Cluster
}

// dbOf is the database of a history's server. Its name is the slot's, too.
func dbOf(c *pgtest.Cluster) pgtest.DB { return pgtest.DB{Cluster: c, Name: "postgres"} }

// beginsAt makes the stream.
func (h *history) beginsAt(c *pgtest.Cluster) {
	h.t.Helper()
	h.goesTo(c)
	h.stream = open(h.t, h.t.Context(), dbOf(c), walchan.WithConnect(func(ctx context.Context, cfg *pgconn.Config) error {
		select {
		case c := <-h.name:
			h.name <- c
			cfg.Port = uint16(c.Port())
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}))
}

// receives wants these rows next, and acknowledges them. It returns when the server knows.
func (h *history) receives(ids ...int) {
	h.t.Helper()
	ms := take(h.t, h.stream, len(ids))
	wantIDs(h.t, ms, ids...)
	ackAll(h.stream, ms)
	waitSlotAt(h.t, dbOf(h.server), ms[len(ms)-1].Tx.CommitLSN+1)
}

// idles has the server write WAL that is not for the stream, and waits until that is confirmed.
func (h *history) idles() {
	h.t.Helper()
	db := dbOf(h.server)
	writeQuietly(h.t, db)
	waitSlotAt(h.t, db, walEnd(h.t, db))
}

// leaves disconnects the stream. It finds no server until goesTo.
func (h *history) leaves() {
	h.t.Helper()
	db := dbOf(<-h.name)
	db.Exec(h.t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL AND slot_type = 'logical'")
	db.Wait(h.t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active_pid IS NOT NULL AND slot_type = 'logical'")
}

// leavesForGood is leaves, after which the server has on disk how far its slot has come. By itself it writes that rarely.
func (h *history) leavesForGood() {
	h.t.Helper()
	h.leaves()
	dbOf(h.server).Exec(h.t, "SELECT pg_replication_slot_advance(slot_name, confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = 'postgres'",
		"CHECKPOINT")
}

// goesTo gives another server the name, or the same one again.
func (h *history) goesTo(c *pgtest.Cluster) {
	h.server = c
	h.name <- c
}

// goesOnAt has the stream go to a server, which must continue it: with these rows at first, which were not received yet, and
// then with new ones, also over the connection after that.
func (h *history) goesOnAt(c *pgtest.Cluster, ids ...int) {
	h.t.Helper()
	before := h.stream.Stats().Reconnects
	h.goesTo(c)
	await(h.t, h.stream, "it has connected again", func() bool {
		if err := h.stream.Err(); err != nil {
			h.t.Fatalf("the stream has ended: %v", err)
		}
		return h.stream.Stats().Reconnects > before
	})
	if len(ids) > 0 {
		h.receives(ids...)
	}
	// A status that belongs to another history would have the server skip what it writes next.
	if told, end := confirmed(h.t, h.stream, dbOf(c)), walEnd(h.t, dbOf(c)); told > end {
		h.t.Fatalf("the server is told %s, and its WAL ends at %s", told, end)
	}
	for id := 1001; id < 1004; id++ {
		insert(h.t, dbOf(c), id, 1, 1)
		h.receives(id)
		h.leaves()
		h.goesTo(c)
	}
}

// refuses has the stream go to a server, at which it must end with one of these errors and without a message.
func (h *history) refuses(c *pgtest.Cluster, kinds ...error) {
	h.t.Helper()
	h.goesTo(c)
	select {
	case m, ok := <-h.stream.C():
		if ok {
			h.t.Fatalf("row %d was received", id(m))
		}
	case <-time.After(patience):
		h.t.Fatalf("the stream has not ended: %+v", h.stream.Stats())
	}
	h.t.Logf("refused: %v", h.stream.Err())
	for _, kind := range kinds {
		if errors.Is(h.stream.Err(), kind) {
			return
		}
	}
	h.t.Errorf("the error is %v, want %v", h.stream.Err(), kinds)
}

// writeQuietly writes into the table that is not published: enough that it reaches into another segment of WAL.
func writeQuietly(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Exec(t, "SELECT pg_switch_wal()", "INSERT INTO quiet VALUES (1)")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// snapshotOf stops a server for a copy.
func snapshotOf(t *testing.T, c *pgtest.Cluster, mode pgtest.Mode) *pgtest.Copy {
	t.Helper()
	must(t, c.Stop(t.Context(), mode))
	p := c.Copy(t)
	must(t, c.Start(t.Context()))
	return p
}

// putBack gives a server the volume of a copy, or a part of it.
func putBack(t *testing.T, c *pgtest.Cluster, p *pgtest.Copy, part pgtest.Part) {
	t.Helper()
	must(t, c.Stop(t.Context(), pgtest.Immediate))
	c.PutBack(t, p, part)
	must(t, c.Start(t.Context()))
}

// withStandbys makes standbys of a server, which have its slot as it is now.
func withStandbys(t *testing.T, c *pgtest.Cluster, n int) (standbys []*pgtest.Cluster) {
	t.Helper()
	p := snapshotOf(t, c, pgtest.Fast)
	for range n {
		standbys = append(standbys, p.Standby(t, c))
	}
	return standbys
}

// failOver ends a primary, and promotes its standby.
func failOver(t *testing.T, primary, standby *pgtest.Cluster) {
	t.Helper()
	must(t, primary.Kill())
	must(t, standby.Promote(t.Context()))
}

// A standby has a copy of the slot, lacks a transaction that was delivered, and is promoted. The copy is a file, or is
// synchronised by the server.
func TestFailoverWithLossIsRefused(t *testing.T) {
	for _, slot := range []string{"copied", "synchronised"} {
		for name, more := range map[string]func(t *testing.T, db pgtest.DB){
			"its WAL is shorter": func(*testing.T, pgtest.DB) {},
			"its WAL is longer": func(t *testing.T, db pgtest.DB) {
				insert(t, db, 101, 1, 3)
				writeQuietly(t, db)
				writeQuietly(t, db)
				insert(t, db, 201, 1, 3)
			},
		} {
			t.Run(slot+", "+name, func(t *testing.T) {
				h, primary := newHistory(t)
				var standby *pgtest.Cluster
				if slot == "copied" {
					standby = withStandbys(t, primary, 1)[0]
				} else {
					standby = primary.Standby(t, failoverSlot(t, primary))
				}
				h.beginsAt(primary)
				insert(t, dbOf(primary), 1, 1, 1)
				h.receives(1)
				if standby.CatchUp(t, primary); slot == "synchronised" {
					standby.SyncSlot(t, primary, "postgres")
				}
				standby.CutOff(t)
				writeQuietly(t, dbOf(primary))
				insert(t, dbOf(primary), 2, 1, 1)
				h.receives(2)
				h.leaves()
				failOver(t, primary, standby)
				more(t, dbOf(standby))
				h.refuses(standby, walchan.ErrDiverged)
			})
		}
	}
}

// failoverSlot makes a server's slot one that standbys synchronise, and returns what these need.
func failoverSlot(t *testing.T, c *pgtest.Cluster) pgtest.Option {
	t.Helper()
	if c.Version() < 17 {
		t.Skip("fail-over slots came with PostgreSQL 17")
	}
	dbOf(c).Exec(t, "SELECT pg_drop_replication_slot('postgres')", "SELECT pg_create_logical_replication_slot('postgres', 'pgoutput', failover => true)")
	return pgtest.WithSetting("hot_standby_feedback", "on")
}

// A fail-over that has lost nothing, or only WAL without anything for the stream, goes on.
func TestFailoverWithoutLossGoesOn(t *testing.T) {
	for _, slot := range []string{"copied", "synchronised"} {
		for _, tail := range []string{"nothing lost", "an idle tail lost"} {
			t.Run(slot+", "+tail, func(t *testing.T) {
				h, primary := newHistory(t)
				var standby *pgtest.Cluster
				if slot == "copied" {
					standby = withStandbys(t, primary, 1)[0]
				} else {
					standby = primary.Standby(t, failoverSlot(t, primary))
				}
				h.beginsAt(primary)
				insert(t, dbOf(primary), 1, 1, 2)
				h.receives(1, 2)
				if standby.CatchUp(t, primary); slot == "synchronised" {
					standby.SyncSlot(t, primary, "postgres")
				}
				insert(t, dbOf(primary), 3, 1, 1)
				h.receives(3)
				standby.CatchUp(t, primary)
				if tail != "nothing lost" {
					standby.CutOff(t)
					h.idles()
				}
				h.leaves()
				failOver(t, primary, standby)
				insert(t, dbOf(standby), 4, 1, 1)
				h.goesOnAt(standby, 4)
			})
		}
	}
}

// Somebody makes the slot anew on the promoted standby, which had none, when it has taken writes already.
func TestSlotRemadeAfterFailoverIsRefused(t *testing.T) {
	h, primary := newHistory(t)
	standby := primary.Standby(t)
	h.beginsAt(primary)
	insert(t, dbOf(primary), 1, 1, 1)
	h.receives(1)
	standby.CatchUp(t, primary)
	h.leaves()
	failOver(t, primary, standby)
	insert(t, dbOf(standby), 2, 1, 1)
	remakeSlot(t, standby)
	insert(t, dbOf(standby), 3, 1, 1)
	h.refuses(standby, walchan.ErrSlotMoved)
}

// remakeSlot makes a new slot of the old name.
func remakeSlot(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	dbOf(c).Exec(t, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'postgres'",
		"SELECT pg_create_logical_replication_slot('postgres', 'pgoutput')")
}

// Two standbys of one primary are promoted, the second after the first is gone: both call their timeline 2, and both left the
// first one at the same place. What was delivered from the one is not on the other.
func TestTwoPromotionsToOneNumberAreTold(t *testing.T) {
	for name, x := range map[string]struct {
		second func(t *testing.T, db pgtest.DB) // what is written on it
		want   error
	}{
		"the second has less": {func(*testing.T, pgtest.DB) {}, walchan.ErrDiverged},
		"the second has more": {func(t *testing.T, db pgtest.DB) {
			insert(t, db, 101, 1, 2)
			writeQuietly(t, db)
			writeQuietly(t, db)
			insert(t, db, 103, 1, 1)
		}, walchan.ErrDiverged},
		"the slot was made on the second, before what was delivered": {func(t *testing.T, db pgtest.DB) {
			remakeSlot(t, db.Cluster)
			insert(t, db, 101, 1, 2)
			writeQuietly(t, db)
			writeQuietly(t, db)
			insert(t, db, 103, 1, 1)
		}, walchan.ErrDiverged},
		"the slot was made on the second, after what was delivered": {func(t *testing.T, db pgtest.DB) {
			insert(t, db, 101, 1, 2)
			writeQuietly(t, db)
			writeQuietly(t, db)
			remakeSlot(t, db.Cluster)
			insert(t, db, 103, 1, 1)
		}, walchan.ErrSlotMoved},
	} {
		t.Run(name, func(t *testing.T) {
			h, primary := newHistory(t)
			standbys := withStandbys(t, primary, 2)
			first, second := standbys[0], standbys[1]
			h.beginsAt(primary)
			insert(t, dbOf(primary), 1, 1, 1)
			h.receives(1)
			first.CatchUp(t, primary)
			second.CatchUp(t, primary)
			h.leaves()
			second.CutOff(t)
			failOver(t, primary, first)
			h.goesTo(first)
			writeQuietly(t, dbOf(first))
			insert(t, dbOf(first), 2, 1, 1)
			h.receives(2)
			h.leaves()
			failOver(t, first, second)
			x.second(t, dbOf(second))
			h.refuses(second, x.want)
		})
	}
}

// Two servers are started from one copy. The first transaction on both has the same position and the same XID; only its time
// differs.
func TestTwinWithTheSameTransactionIsTold(t *testing.T) {
	h, a := newHistory(t)
	b := snapshotOf(t, a, pgtest.Fast).Twin(t)
	h.beginsAt(a)
	insert(t, dbOf(a), 1, 1, 1)
	h.receives(1)
	h.leaves()
	insert(t, dbOf(b), 1, 1, 1)
	const place = "SELECT pg_current_wal_flush_lsn() || ' ' || xmin FROM t WHERE id = 1"
	t.Logf("the transactions end at %s and %s", dbOf(a).Query(t, place), dbOf(b).Query(t, place))
	insert(t, dbOf(b), 101, 1, 1)
	writeQuietly(t, dbOf(b))
	h.refuses(b, walchan.ErrDiverged)
}

// A standby is promoted while a stream is connected to it: the stream goes on at once, on the new timeline, and also after its
// connection has broken.
func TestPromotionUnderTheStreamGoesOn(t *testing.T) {
	for _, cut := range []string{"at once", "after a row"} {
		t.Run(cut, func(t *testing.T) {
			h, primary := newHistory(t, pgtest.WithSetting("hot_standby_feedback", "on"))
			if primary.Version() < 16 {
				t.Skip("standbys decode from PostgreSQL 16 on")
			}
			standby := primary.Standby(t)
			standby.CatchUp(t, primary)
			makeSlotOnStandby(t, standby, primary)
			h.beginsAt(standby)
			insert(t, dbOf(primary), 1, 1, 1)
			h.receives(1)
			failOver(t, primary, standby)
			insert(t, dbOf(standby), 2, 1, 1)
			if cut == "after a row" {
				h.receives(2)
				h.leaves()
				insert(t, dbOf(standby), 3, 1, 1)
				h.goesOnAt(standby, 3)
			} else {
				h.leaves()
				h.goesOnAt(standby, 2)
			}
		})
	}
}

// makeSlotOnStandby makes a slot, for which the standby waits until the primary has logged its running transactions.
func makeSlotOnStandby(t *testing.T, standby, primary *pgtest.Cluster) {
	t.Helper()
	conn, made := connect(t, dbOf(standby)), make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "SELECT pg_create_logical_replication_slot('postgres', 'pgoutput')")
		made <- err
	}()
	for {
		dbOf(primary).Exec(t, "SELECT pg_log_standby_snapshot()")
		select {
		case err := <-made:
			must(t, err)
			return
		case <-time.After(50 * time.Millisecond): // the snapshot may have come too early
		}
	}
}

// A snapshot of the server's volume is put back, on the same timeline: what was delivered since is gone, and other transactions
// have its place.
func TestVolumePutBackIsTold(t *testing.T) {
	for name, after := range map[string]func(t *testing.T, db pgtest.DB){
		"nothing is written since": func(*testing.T, pgtest.DB) {},
		"the same is written since": func(t *testing.T, db pgtest.DB) {
			insert(t, db, 2, 1, 2)
			insert(t, db, 101, 1, 1)
			writeQuietly(t, db)
		},
		"more is written since": func(t *testing.T, db pgtest.DB) {
			insert(t, db, 101, 1, 5)
			writeQuietly(t, db)
			insert(t, db, 106, 1, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHistory(t)
			h.beginsAt(c)
			insert(t, dbOf(c), 1, 1, 1)
			h.receives(1)
			p := snapshotOf(t, c, pgtest.Immediate)
			insert(t, dbOf(c), 2, 1, 2)
			h.receives(2, 3)
			h.leaves()
			putBack(t, c, p, pgtest.Everything)
			after(t, dbOf(c))
			h.refuses(c, walchan.ErrDiverged)
		})
	}
}

// The same, but the slots are on another volume, and are as new as they were.
func TestVolumePutBackUnderNewerSlotsIsTold(t *testing.T) {
	for name, after := range map[string]func(t *testing.T, db pgtest.DB){
		"nothing is written since": func(*testing.T, pgtest.DB) {},
		"more is written since": func(t *testing.T, db pgtest.DB) {
			insert(t, db, 101, 1, 5)
			for range 3 {
				writeQuietly(t, db)
			}
			insert(t, db, 106, 1, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHistory(t)
			h.beginsAt(c)
			insert(t, dbOf(c), 1, 1, 1)
			h.receives(1)
			p := snapshotOf(t, c, pgtest.Immediate)
			insert(t, dbOf(c), 2, 1, 1)
			h.receives(2)
			received := slotAt(t, dbOf(c))
			h.idles()
			h.leavesForGood()
			putBack(t, c, p, pgtest.AllButSlots)
			if at := slotAt(t, dbOf(c)); at <= received {
				t.Fatalf("the slot is at %s", at)
			}
			after(t, dbOf(c))
			h.refuses(c, walchan.ErrDiverged, walchan.ErrSlotMoved)
		})
	}
}

// The snapshot that is put back has all that was delivered. What it lacks is WAL without anything for the stream, whose end
// was confirmed. The server must not be told of that end again, because it would skip its next transactions.
func TestVolumePutBackWithAllThatWasDeliveredGoesOn(t *testing.T) {
	for _, mode := range []pgtest.Mode{pgtest.Fast, pgtest.Immediate} {
		t.Run(string(mode), func(t *testing.T) {
			h, c := newHistory(t)
			h.beginsAt(c)
			insert(t, dbOf(c), 1, 1, 2)
			h.receives(1, 2)
			p := snapshotOf(t, c, mode)
			h.idles()
			h.leaves()
			putBack(t, c, p, pgtest.Everything)
			h.goesOnAt(c)
		})
	}
}

// The same, but the row is acknowledged when the connection is lost already, so that no status has told the end.
func TestFirstStatusTellsNoPositionOfAnotherHistory(t *testing.T) {
	h, c := newHistory(t)
	h.beginsAt(c)
	insert(t, dbOf(c), 1, 1, 1)
	ms := take(t, h.stream, 1)
	p := snapshotOf(t, c, pgtest.Immediate)
	writeQuietly(t, dbOf(c))
	end := walEnd(t, dbOf(c))
	await(t, h.stream, "the idle WAL was received", func() bool { return h.stream.Stats().Received >= end })
	h.leaves()
	ackAll(h.stream, ms)
	putBack(t, c, p, pgtest.Everything)
	h.goesOnAt(c)
}

// A server is recovered to a point in time, on a new timeline, with the slot of the base backup.
func TestPointInTimeRecovery(t *testing.T) {
	for _, name := range []string{"before what was delivered", "after all that was delivered", "with a slot that is newer"} {
		t.Run(name, func(t *testing.T) {
			h, c := newHistory(t)
			base := snapshotOf(t, c, pgtest.Fast)
			h.beginsAt(c)
			insert(t, dbOf(c), 1, 1, 1)
			h.receives(1)
			early := walEnd(t, dbOf(c))
			insert(t, dbOf(c), 2, 1, 1)
			h.receives(2)
			late := walEnd(t, dbOf(c))
			h.idles()
			h.leavesForGood()
			must(t, c.Stop(t.Context(), pgtest.Fast))
			target := late
			if name == "before what was delivered" {
				target = early
			}
			r := base.Recover(t, c, pgtest.WithSetting("recovery_target_lsn", target.String()))
			switch name {
			case "before what was delivered":
				insert(t, dbOf(r), 101, 1, 3)
				writeQuietly(t, dbOf(r))
				writeQuietly(t, dbOf(r))
				h.refuses(r, walchan.ErrDiverged)
			case "after all that was delivered":
				insert(t, dbOf(r), 3, 1, 1)
				h.goesOnAt(r, 3)
			default:
				putBack(t, r, c.Copy(t), pgtest.OnlySlots)
				if at := slotAt(t, dbOf(r)); at <= late {
					t.Fatalf("the slot is at %s", at)
				}
				for range 3 {
					writeQuietly(t, dbOf(r))
				}
				h.refuses(r, walchan.ErrSlotMoved)
			}
		})
	}
}

// Somebody moves the slot while the stream is away from it. Beyond what the stream has acknowledged that is a gap; up to there
// it is none.
func TestSlotMovedBySomebody(t *testing.T) {
	for name, x := range map[string]struct {
		move func(t *testing.T, db pgtest.DB)
		gap  bool
	}{
		"made anew": {func(t *testing.T, db pgtest.DB) { remakeSlot(t, db.Cluster) }, true},
		"advanced": {func(t *testing.T, db pgtest.DB) {
			db.Exec(t, "SELECT pg_replication_slot_advance('postgres', pg_current_wal_lsn())")
		}, true},
		"read by another":       {func(t *testing.T, db pgtest.DB) { db.Exec(t, fmt.Sprintf(readSlot, 2)) }, true},
		"copied from an older":  {func(t *testing.T, db pgtest.DB) { copySlot(t, db) }, false},
		"copied, and read once": {func(t *testing.T, db pgtest.DB) { copySlot(t, db); db.Exec(t, fmt.Sprintf(readSlot, 1)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHistory(t)
			dbOf(c).Exec(t, "SELECT pg_copy_logical_replication_slot('postgres', 'older')")
			h.beginsAt(c)
			insert(t, dbOf(c), 1, 1, 2)
			h.receives(1, 2)
			h.leaves()
			insert(t, dbOf(c), 3, 1, 1)
			x.move(t, dbOf(c))
			if x.gap {
				h.refuses(c, walchan.ErrSlotMoved)
			} else {
				h.goesOnAt(c, 3)
			}
		})
	}
}

// readSlot reads at least so many messages from the slot, and is done with them.
const readSlot = "SELECT count(*) FROM pg_logical_slot_get_binary_changes('postgres', NULL, %d, 'proto_version', '1', 'publication_names', 'p')"

// copySlot puts a copy of an older slot into the slot's place.
func copySlot(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Exec(t, "SELECT pg_drop_replication_slot('postgres')", "SELECT pg_copy_logical_replication_slot('older', 'postgres')")
}

// After a crash the slot is older than what was confirmed. Somebody advances it, by less than that.
func TestSlotAdvancedWithinWhatWasConfirmedGoesOn(t *testing.T) {
	h, c := newHistory(t)
	h.beginsAt(c)
	insert(t, dbOf(c), 1, 1, 2)
	h.receives(1, 2)
	between := walEnd(t, dbOf(c))
	h.idles()
	told := slotAt(t, dbOf(c))
	h.leaves()
	must(t, c.Restart(t.Context(), pgtest.Immediate))
	if at := slotAt(t, dbOf(c)); at >= between {
		t.Fatalf("the slot is at %s, not before %s", at, between)
	}
	dbOf(c).Exec(t, "SELECT pg_replication_slot_advance('postgres', '"+between.String()+"')")
	if at := slotAt(t, dbOf(c)); at < between || at > told {
		t.Fatalf("the slot is at %s, not between %s and %s", at, between, told)
	}
	insert(t, dbOf(c), 3, 1, 1)
	h.goesOnAt(c, 3)
}
