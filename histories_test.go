package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// The tests of two histories: a stream loses its server, and finds under the same name one whose WAL has gone another way, or
// perhaps has not. It must continue with each row once, or refuse. It must never continue with a gap.

// history is a consumer, and the name under which it finds its server.
type history struct {
	t      *testing.T
	name   chan *pgtest.Cluster // 1; the server that has the name. While there is none the stream waits.
	server *pgtest.Cluster      // the last one
	stream *walchan.Stream

	// target is what the consumer has stored. Then it is a new process at every server. If it is nil, its stream lives on.
	target *copyOf
	opts   []walchan.Option
}

// newHistory makes a server, as ownServer does, and a consumer of it. next says that the consumer is a new process at every server.
func newHistory(t *testing.T, next bool, opts ...pgtest.Option) (*history, *pgtest.Cluster) {
	t.Helper()
	inTwoVersions(t)
	db := ownServer(t, append([]pgtest.Option{pgtest.WithSetting("autovacuum", "off")}, opts...)...)
	h := &history{t: t, name: make(chan *pgtest.Cluster, 1)}
	if next {
		h.target = &copyOf{}
	}
	return h, db.Cluster
}

// inTwoVersions skips a test of histories where the server is another one.
func inTwoVersions(t *testing.T) {
	t.Helper()
	if v := pgtest.Shared(t).Version(); v != 15 && v != 18 {
		t.Skip("histories are the same in all versions: 15 and 18 are tried, because each test takes several servers")
	}
}

// inBothWays runs a test twice: the consumer's stream lives on, or the consumer is a new process at every server.
func inBothWays(t *testing.T, name string, f func(t *testing.T, next bool)) {
	t.Run(name+", same process", func(t *testing.T) { f(t, false) })
	t.Run(name+", next process", func(t *testing.T) { f(t, true) })
}

// dbOf is the database of a history's server. Its name is the slot's, too.
func dbOf(c *pgtest.Cluster) pgtest.DB { return pgtest.DB{Cluster: c, Name: "postgres"} }

// beginsAt makes the first stream. What the slot begins with is already in the target.
func (h *history) beginsAt(c *pgtest.Cluster) {
	h.t.Helper()
	h.takesName(c)
	var opts []walchan.Option
	if h.target != nil {
		opts = append(opts, walchan.WithFrom(slotAt(h.t, dbOf(c))))
	}
	h.mustSubscribe(opts...)
}

func (h *history) mustSubscribe(opts ...walchan.Option) {
	h.t.Helper()
	if err := h.subscribe(opts...); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) subscribe(opts ...walchan.Option) error {
	h.t.Helper()
	db := dbOf(h.server)
	opts = append(append(usual(h.t, db), walchan.WithConnect(h.connect)), append(h.opts, opts...)...)
	if k := h.target; k != nil {
		if opts = append(opts, walchan.WithCheckpoint(k.last(h.t))); k.checkpoint != "" {
			opts = append(opts, walchan.WithCreateSlot()) // which must not hide that the slot is gone
		}
	}
	s, err := walchan.Subscribe(h.t.Context(), db.DSN(), opts...)
	if err == nil {
		h.stream = s
		h.t.Cleanup(func() { s.Close() })
	}
	return err
}

func (h *history) connect(ctx context.Context, cfg *pgconn.Config) error {
	select {
	case c := <-h.name:
		h.name <- c
		cfg.Port = uint16(c.Port())
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takes wants these rows next, stores them if the consumer does, and acknowledges them. It returns the position of the last one.
func (h *history) takes(ids ...int) walchan.Position {
	h.t.Helper()
	if k := h.target; k != nil {
		k.take(h.t, h.stream, len(ids))
		for i, row := range k.rows[len(k.rows)-len(ids):] {
			if want := "insert " + itoa(ids[i]); row != want {
				h.t.Fatalf("row %q, want %q", row, want)
			}
		}
		return k.last(h.t).Position()
	}
	ms := take(h.t, h.stream, len(ids))
	wantIDs(h.t, ms, ids...)
	ackAll(h.stream, ms)
	at, _ := ms[len(ms)-1].Position()
	return at
}

// receives is takes for whole transactions. It returns when the server knows.
func (h *history) receives(ids ...int) {
	h.t.Helper()
	waitSlotAt(h.t, dbOf(h.server), h.takes(ids...).Commit+1)
}

// idles has the server write WAL that is not for the stream, and waits until most of it is confirmed.
func (h *history) idles() {
	h.t.Helper()
	db := dbOf(h.server)
	writeQuietly(h.t, db)
	end := walEnd(h.t, db)
	writeQuietly(h.t, db)
	for deadline := time.After(patience); h.target != nil && slotAt(h.t, db) < end; {
		select {
		case m := <-h.stream.C():
			if m.Kind != walchan.Progress {
				h.t.Fatalf("%v, %v", m, h.stream.Err())
			}
			h.target.apply(h.t, m)
			h.stream.Ack(m)
		case <-time.After(10 * time.Millisecond): // between two looks at the slot
		case <-deadline:
			h.t.Fatalf("the slot is at %s, and not at %s: %+v", slotAt(h.t, db), end, h.stream.Stats())
		}
	}
	waitSlotAt(h.t, db, end)
}

// leaves disconnects the stream, or ends the process. The consumer has no server until goesTo.
func (h *history) leaves() {
	h.t.Helper()
	db := dbOf(<-h.name)
	if h.target != nil {
		h.stream.Close()
	} else {
		db.Exec(h.t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL AND slot_type = 'logical'")
	}
	db.Wait(h.t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active_pid IS NOT NULL AND slot_type = 'logical'")
}

// leavesForGood is leaves, after which the server has on disk how far its slot has come. By itself it writes that rarely.
func (h *history) leavesForGood() {
	h.t.Helper()
	h.leaves()
	dbOf(h.server).Exec(h.t, "SELECT pg_replication_slot_advance(slot_name, confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = 'postgres'",
		"CHECKPOINT")
}

// takesName gives a server the name.
func (h *history) takesName(c *pgtest.Cluster) {
	h.server = c
	h.name <- c
}

// goesTo has the consumer go to a server, perhaps the same one again, which must continue the stream.
func (h *history) goesTo(c *pgtest.Cluster) {
	h.t.Helper()
	before := h.stream.Stats().Reconnects
	h.takesName(c)
	if h.target != nil {
		h.mustSubscribe()
		return
	}
	await(h.t, h.stream, "it has connected again", func() bool {
		if err := h.stream.Err(); err != nil {
			h.t.Fatalf("the stream has ended: %v", err)
		}
		return h.stream.Stats().Reconnects > before
	})
}

// goesOnAt is goesTo. The consumer must receive these rows, which it does not have yet, and then new ones, also over the
// connections after that, and if one ends in the middle of a transaction.
func (h *history) goesOnAt(c *pgtest.Cluster, ids ...int) {
	h.t.Helper()
	h.goesTo(c)
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
	insert(h.t, dbOf(c), 1004, 3, 1)
	h.takes(1004)
	h.leaves()
	h.goesTo(c)
	h.receives(1005, 1006)
}

// refuses has the consumer go to a server, where it must get one of these errors and no message.
func (h *history) refuses(c *pgtest.Cluster, kinds ...error) {
	h.t.Helper()
	h.takesName(c)
	err := h.ends()
	h.t.Logf("refused: %v", err)
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return
		}
	}
	h.t.Errorf("the error is %v, want %v", err, kinds)
}

// ends returns the error with which the stream ends, or cannot be made.
func (h *history) ends() error {
	h.t.Helper()
	if h.target != nil {
		if err := h.subscribe(); err != nil {
			return err
		}
	}
	select {
	case m, ok := <-h.stream.C():
		if ok {
			h.t.Fatalf("row %d was received: %v", id(m), m)
		}
	case <-time.After(patience):
		h.t.Fatalf("the stream has not ended: %+v", h.stream.Stats())
	}
	return h.stream.Err()
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
			inBothWays(t, slot+", "+name, func(t *testing.T, next bool) {
				h, primary := newHistory(t, next)
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
					h.synchronises(standby)
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

// failoverSlot makes a server's slot a fail-over slot. It returns the setting with which a standby can synchronise it.
func failoverSlot(t *testing.T, c *pgtest.Cluster) pgtest.Option {
	t.Helper()
	if c.Version() < 17 {
		t.Skip("fail-over slots came with PostgreSQL 17")
	}
	dbOf(c).Exec(t, "SELECT pg_drop_replication_slot('postgres')", "SELECT pg_create_logical_replication_slot('postgres', 'pgoutput', failover => true)")
	return pgtest.WithSetting("hot_standby_feedback", "on")
}

// synchronises copies the slot to a standby. For the first time the slot must have confirmed more than a snapshot of the running
// transactions, after which none has begun. So what it confirms is a message, which is no transaction.
func (h *history) synchronises(standby *pgtest.Cluster) {
	h.t.Helper()
	db := dbOf(h.server)
	for range 20 {
		db.Exec(h.t, "SELECT pg_log_standby_snapshot()", "SELECT pg_logical_emit_message(false, 'p', '')")
		m := next(h.t, h.stream)
		if h.target != nil {
			h.target.apply(h.t, m)
		}
		h.stream.Ack(m)
		if waitSlotAt(h.t, db, m.LSN); standby.SyncSlot(h.t, h.server, "postgres") {
			return
		}
	}
	h.t.Fatal("the slot is not synchronised")
}

// A fail-over that has lost nothing, or only WAL without anything for the stream, goes on.
func TestFailoverWithoutLossGoesOn(t *testing.T) {
	for _, slot := range []string{"copied", "synchronised"} {
		for _, tail := range []string{"nothing lost", "an idle tail lost"} {
			inBothWays(t, slot+", "+tail, func(t *testing.T, next bool) {
				h, primary := newHistory(t, next)
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
					h.synchronises(standby)
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

// The promoted standby has no slot. Somebody makes one there, after the first writes.
func TestSlotRemadeAfterFailoverIsRefused(t *testing.T) {
	inBothWays(t, "remade", func(t *testing.T, next bool) {
		h, primary := newHistory(t, next)
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
	})
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
		inBothWays(t, name, func(t *testing.T, next bool) {
			h, primary := newHistory(t, next)
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
	inBothWays(t, "twin", func(t *testing.T, next bool) {
		h, a := newHistory(t, next)
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
	})
}

// A standby is promoted while a stream is connected to it: the stream goes on at once, on the new timeline, and also after its
// connection has broken.
func TestPromotionUnderTheStreamGoesOn(t *testing.T) {
	for _, cut := range []string{"at once", "after a row"} {
		inBothWays(t, cut, func(t *testing.T, next bool) {
			h, primary := newHistory(t, next, pgtest.WithSetting("hot_standby_feedback", "on"))
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
	conn, made := pgtest.Connect(t, dbOf(standby).DSN()), make(chan error, 1)
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

// A server has crashed. Its slot is where it was at the last time that the server wrote that to disk: before the last transaction that
// was delivered, or after it, but before what was confirmed. Then the WAL of that transaction proves the history, if it is there.
func TestServerCrashGoesOn(t *testing.T) {
	for slot, keep := range map[string]string{
		"before the last transaction":                      "0",
		"after the last transaction":                       "1GB",
		"after the last transaction, whose WAL is removed": "0",
	} {
		inBothWays(t, slot, func(t *testing.T, next bool) {
			h, c := newHistory(t, next, pgtest.WithSetting("wal_keep_size", keep))
			for range 5 {
				if crashGoesOn(t, h, c, keep, strings.HasPrefix(slot, "after")) {
					return
				}
				h = h.another(c)
			}
			t.Error("the server has always written the slot to disk at the wrong time")
		})
	}
}

// crashGoesOn returns false if the server has written the slot to disk at another time than the case wants.
func crashGoesOn(t *testing.T, h *history, c *pgtest.Cluster, keep string, after bool) bool {
	h.beginsAt(c)
	insert(t, dbOf(c), 1, 1, 2)
	h.receives(1, 2)
	last := slotAt(t, dbOf(c))
	if after {
		h.idles()
		h.leavesForGood()
		h.goesTo(c)
	}
	h.idles()
	told := slotAt(t, dbOf(c))
	h.leaves()
	must(t, c.Restart(t.Context(), pgtest.Immediate))
	if at := slotAt(t, dbOf(c)); at >= told || after != (at >= last) {
		t.Logf("the slot is at %s, and was at %s and %s", at, last, told)
		return false
	}
	insert(t, dbOf(c), 3, 1, 1)
	h.goesTo(c)
	h.receives(3)
	if unproven, want := h.stream.Stats().Unproven, after && keep == "0"; unproven != want {
		t.Errorf("unproven is %v", unproven)
	}
	h.leaves()
	h.goesOnAt(c)
	return true
}

// another ends the history, and returns one that begins at the same server.
func (h *history) another(c *pgtest.Cluster) *history {
	h.t.Helper()
	h.stream.Close()
	db := dbOf(c)
	db.Wait(h.t, "SELECT NOT active FROM pg_replication_slots")
	db.Exec(h.t, "TRUNCATE t", "SELECT pg_drop_replication_slot('"+db.Name+"')", "SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")
	n := &history{t: h.t, name: make(chan *pgtest.Cluster, 1)}
	if h.target != nil {
		n.target = &copyOf{}
	}
	return n
}

// A server that took over has no slot. A new one would begin now, with a gap: none is made.
func TestServerWithoutTheSlotIsRefused(t *testing.T) {
	inBothWays(t, "fail-over", func(t *testing.T, next bool) {
		h, primary := newHistory(t, next)
		standby := primary.Standby(t)
		h.beginsAt(primary)
		insert(t, dbOf(primary), 1, 1, 1)
		h.receives(1)
		standby.CatchUp(t, primary)
		h.leaves()
		failOver(t, primary, standby)
		insert(t, dbOf(standby), 2, 1, 1)
		h.refuses(standby, walchan.ErrSlotMissing)
		if n := dbOf(standby).Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'"); n != "0" {
			t.Errorf("there are %s slots", n)
		}
	})
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
		inBothWays(t, name, func(t *testing.T, next bool) {
			h, c := newHistory(t, next)
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
		inBothWays(t, name, func(t *testing.T, next bool) {
			h, c := newHistory(t, next)
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
		inBothWays(t, string(mode), func(t *testing.T, next bool) {
			h, c := newHistory(t, next)
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
	h, c := newHistory(t, false)
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
		inBothWays(t, name, func(t *testing.T, next bool) {
			h, c := newHistory(t, next)
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
		inBothWays(t, name, func(t *testing.T, next bool) {
			h, c := newHistory(t, next)
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
	inBothWays(t, "advanced", func(t *testing.T, next bool) {
		h, c := newHistory(t, next)
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
	})
}
