package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// What a physical stream does if its server is another one than before, with the same WAL or with other WAL at the same positions.

// walHistory is an archive whose stream finds its server under a name. While no server has the name, the stream waits.
type walHistory struct {
	*archive
	t           *testing.T
	name        chan *pgtest.Cluster // 1
	application string
	last        walchan.Message // acknowledged
}

var walHistories atomic.Int32

func newWALHistory(t *testing.T) *walHistory {
	t.Helper()
	inTwoVersions(t)
	return &walHistory{t: t, name: make(chan *pgtest.Cluster, 1), application: fmt.Sprintf("history_%d", walHistories.Add(1))}
}

// subscribe begins the stream, or that of another process.
func (h *walHistory) subscribe(opts ...walchan.Option) error {
	opts = append(opts, walchan.WithLogger(logTo(h.t)), retrySoon, walchan.WithConnect(func(ctx context.Context, cfg *pgconn.Config) error {
		select {
		case c := <-h.name:
			h.name <- c
			cfg.Port = uint16(c.Port())
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}))
	c := <-h.name
	h.name <- c
	s, err := walchan.SubscribePhysical(h.t.Context(), c.DSN("application_name="+h.application), opts...)
	if err != nil {
		return err
	}
	h.t.Cleanup(func() { s.Close() })
	if h.archive == nil {
		h.archive = newArchive(h.t, s)
	}
	h.s = s
	return nil
}

// begin begins the stream at a server.
func (h *walHistory) begin(c *pgtest.Cluster, opts ...walchan.Option) {
	h.t.Helper()
	h.name <- c
	ok(h.t, h.subscribe(opts...))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// receives receives and acknowledges all that a server has.
func (h *walHistory) receives(c *pgtest.Cluster) {
	h.t.Helper()
	for end := flushed(h.t, c); h.end < end; {
		h.last = h.take()
		h.s.Ack(h.last)
	}
}

// leaves takes the name from its server, and disconnects the stream.
func (h *walHistory) leaves() {
	h.t.Helper()
	c := <-h.name
	streams := "FROM pg_stat_replication WHERE application_name = '" + h.application + "'"
	pgtest.Exec(h.t, c.DSN(), "SELECT pg_terminate_backend(pid) "+streams)
	pgtest.Wait(h.t, c.DSN(), "SELECT count(*) = 0 "+streams)
	h.drain()
}

// drain receives and acknowledges what a stream has left that is not connected any more.
func (h *walHistory) drain() {
	h.t.Helper()
	awaitState(h.t, h.s, walchan.StateRetrying)
	for len(h.s.C()) > 0 {
		h.last = h.take()
		h.s.Ack(h.last)
	}
}

// leavesAtTheEndOfASegment writes and receives WAL to exactly the end of a segment, and disconnects the stream. A server may write
// by itself at any time.
func (h *walHistory) leavesAtTheEndOfASegment(c *pgtest.Cluster) {
	h.t.Helper()
	for range 10 {
		pgtest.Exec(h.t, c.DSN(), write, "SELECT pg_switch_wal()")
		h.receives(c)
		pgtest.Wait(h.t, c.DSN(), fmt.Sprintf("SELECT count(*) > 0 FROM pg_stat_replication WHERE flush_lsn >= '%s' AND application_name = '%s'", h.end-1, h.application))
		h.leaves()
		if h.end%segmentSize == 0 {
			return
		}
		h.name <- c
	}
	h.t.Fatal("the server always writes by itself")
}

// goesOn has the stream go on at a server.
func (h *walHistory) goesOn(c *pgtest.Cluster) {
	h.t.Helper()
	h.name <- c
	pgtest.Exec(h.t, c.DSN(), write)
	h.receives(c)
}

// nextGoesOn has the next process go on at a server.
func (h *walHistory) nextGoesOn(c *pgtest.Cluster, opts ...walchan.Option) {
	h.t.Helper()
	h.name <- c
	h.s.Close() // the server may not know what was acknowledged last
	ok(h.t, h.subscribe(append(opts, walchan.WithCheckpoint(h.last.Checkpoint()))...))
	pgtest.Exec(h.t, c.DSN(), write)
	h.receives(c)
}

// refuses wants the stream to end at a server without a message, and that of the next process as well.
func (h *walHistory) refuses(c *pgtest.Cluster, kind error, name string, opts ...walchan.Option) {
	h.t.Helper()
	h.name <- c
	h.endsWith(kind, name)
	h.s.Close()
	ok(h.t, h.subscribe(append(opts, walchan.WithCheckpoint(h.last.Checkpoint()))...))
	h.endsWith(kind, name)
}

func (h *walHistory) endsWith(kind error, name string) {
	h.t.Helper()
	select {
	case m, open := <-h.s.C():
		if open {
			h.t.Fatalf("%v was delivered", m)
		}
	case <-time.After(patience):
		h.t.Fatalf("it goes on: %+v", h.s.Stats())
	}
	check(h.t, h.s.Err(), kind, name)
}

// stored is a stream with checkpoints of which none is stored yet.
var stored = walchan.WithCheckpoint(walchan.Checkpoint{})

// theSame is what an application writes again after a fail-over, equal to the last byte, and then as much that each history has
// more WAL than what was delivered.
const theSame = "COPY w FROM PROGRAM 'seq 1 1000 | sed s/$/,x/' CSV"

func promoted(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	ok(t, c.Promote(t.Context()))
}

// quiet is a server that writes hardly any WAL by itself, and keeps some.
func quiet(t *testing.T, keep string) *pgtest.Cluster {
	t.Helper()
	return ownCluster(t, pgtest.WithSetting("autovacuum", "off"), pgtest.WithSetting("bgwriter_delay", "10s"),
		pgtest.WithSetting("checkpoint_timeout", "1h"), pgtest.WithSetting("wal_keep_size", keep))
}

// Two standbys of one primary are promoted to the same timeline number, at the same place. The same is written on both.
func TestPhysicalTwinIsRefused(t *testing.T) {
	for name, zero := range map[string]bool{"after the same COPY": false, "after the zeros at the end of a segment": true} {
		t.Run(name, func(t *testing.T) {
			primary := quiet(t, "1GB")
			a, b := primary.Standby(t), primary.Standby(t)
			pgtest.Exec(t, primary.DSN(), "CREATE TABLE w (a int, b text)", "CHECKPOINT")
			a.CatchUp(t, primary)
			b.CatchUp(t, primary)
			a.CutOff(t)
			b.CutOff(t)
			h := newWALHistory(t)
			h.begin(a, stored)
			promoted(t, a)
			promoted(t, b)
			if zero {
				h.leavesAtTheEndOfASegment(a)
			} else {
				pgtest.Exec(t, a.DSN(), theSame, theSame)
				h.receives(a)
				h.leaves()
			}
			for flushed(t, b) <= h.end {
				pgtest.Exec(t, b.DSN(), theSame, theSame, "SELECT pg_switch_wal()", theSame)
			}
			if h.last.Timeline() != 2 {
				t.Fatalf("the last message is %v of timeline %d", h.last, h.last.Timeline())
			}
			h.refuses(b, walchan.ErrDiverged, "on timeline 2 the server has other WAL between")
		})
	}
}

// A snapshot of the volume is put back. The server then writes other WAL at the same positions of the same timeline.
func TestPhysicalVolumePutBackIsRefused(t *testing.T) {
	c := quiet(t, "1GB")
	pgtest.Exec(t, c.DSN(), "CREATE TABLE w (a int, b text)")
	h := newWALHistory(t)
	h.begin(c, stored, walchan.WithSlot("s"), walchan.WithCreateSlot())
	ok(t, c.Stop(t.Context(), pgtest.Immediate))
	volume := c.Copy(t)
	ok(t, c.Start(t.Context()))
	pgtest.Exec(t, c.DSN(), theSame)
	h.receives(c)
	<-h.name
	ok(t, c.Stop(t.Context(), pgtest.Immediate))
	h.drain()
	c.PutBack(t, volume, pgtest.Everything)
	ok(t, c.Start(t.Context()))
	pgtest.Exec(t, c.DSN(), theSame, theSame)
	h.refuses(c, walchan.ErrDiverged, "other WAL", walchan.WithSlot("s"))
	if told := parseLSN(t, pgtest.Query(t, c.DSN(), "SELECT restart_lsn FROM pg_replication_slots")); told >= h.end {
		t.Errorf("the slot was told %s of another history", told)
	}
}

// A restarted server, and a promoted standby that has everything, are gone on with byte for byte.
func TestPhysicalSameHistoryGoesOn(t *testing.T) {
	primary := quiet(t, "1GB")
	standby := primary.Standby(t)
	h, slot := newWALHistory(t), walchan.WithSlot("s")
	h.begin(primary, stored, slot, walchan.WithCreateSlot())
	createPhysicalSlot(t, standby.DSN(), "s")
	pgtest.Exec(t, primary.DSN(), write)
	h.receives(primary)
	for range 2 {
		h.leaves()
		ok(t, primary.Restart(t.Context(), pgtest.Immediate))
		h.goesOn(primary)
		h.leaves()
		ok(t, primary.Restart(t.Context(), pgtest.Fast))
		h.nextGoesOn(primary, slot, walchan.WithProof(true))
	}
	standby.CatchUp(t, primary)
	h.leaves()
	ok(t, primary.Kill())
	promoted(t, standby)
	h.goesOn(standby)
	h.leaves()
	h.nextGoesOn(standby, slot, walchan.WithProof(true))
	h.compare(primary, 1)
	h.compare(standby, 2)
	if last := h.first[1] + walchan.LSN(len(h.wal[1])); last != h.first[2] || len(h.wal[1]) == 0 {
		t.Errorf("timeline 1 ends at %s, and 2 begins at %s", last, h.first[2])
	}
	file, err := os.ReadFile(filepath.Join(standby.DataDir(), "pg_wal", "00000002.history"))
	if err != nil || h.history[2] != string(file) {
		t.Errorf("history %q, want %q (%v)", h.history[2], file, err)
	}
}

// Streams have come exactly to where a timeline ends, also at the end of a segment, whose file the new timeline does not have.
func TestPhysicalGoesOnWhereATimelineEnds(t *testing.T) {
	for name, last := range map[string]string{"in a segment": write, "at the end of a segment": "SELECT pg_switch_wal()"} {
		t.Run(name, func(t *testing.T) {
			primary := quiet(t, "1GB")
			standby := primary.Standby(t)
			var all [4]*walHistory // each second one is of whole segments; the last two are gone on with by another process
			options := func(i int) []walchan.Option {
				return append([]walchan.Option{walchan.WithWholeSegments()}[:i%2], stored)
			}
			for i := range all {
				all[i] = newWALHistory(t)
				all[i].begin(standby, options(i)...)
			}
			pgtest.Exec(t, primary.DSN(), write, last)
			standby.CatchUp(t, primary)
			standby.CutOff(t)
			fork := parseLSN(t, pgtest.Query(t, standby.DSN(), "SELECT pg_last_wal_receive_lsn()"))
			if last != write && fork%segmentSize != 0 {
				t.Skipf("the server has written by itself after the switch, up to %s", fork)
			}
			for _, h := range all {
				for h.end < fork {
					h.last = h.take()
					h.s.Ack(h.last)
				}
				<-h.name
			}
			pgtest.Exec(t, standby.DSN(), "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
			pgtest.Wait(t, standby.DSN(), "SELECT count(*) = 0 FROM pg_stat_replication")
			promoted(t, standby)
			for i, h := range all {
				if i < 2 {
					h.goesOn(standby)
				} else {
					h.nextGoesOn(standby, append(options(i), walchan.WithProof(true))...)
				}
				h.compare(standby, 2)
				begin := fork
				if i%2 == 1 {
					begin -= begin % segmentSize
				}
				if h.first[2] != begin || h.history[2] == "" || h.s.Stats().Unproven {
					t.Errorf("%d: timeline 2 begins at %s, and 1 ends at %s; its history is %q; %+v", i, h.first[2], fork, h.history[2], h.s.Stats())
				}
			}
		})
	}
}

// At the end of a segment the position before it is confirmed, so that the server keeps the segment for the proof. With the next
// WAL the rest is confirmed.
func TestPhysicalEndOfASegment(t *testing.T) {
	c := quiet(t, "0")
	var all [2]*walHistory
	for i, slot := range []string{"s", "t"} {
		all[i] = newWALHistory(t)
		all[i].begin(c, stored, walchan.WithSlot(slot), walchan.WithCreateSlot())
	}
	for i, h := range all {
		h.leavesAtTheEndOfASegment(c)
		slot := []string{"s", "t"}[i]
		if at := pgtest.Query(t, c.DSN(), "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '"+slot+"'"); at != (h.end - 1).String() {
			t.Errorf("%s is confirmed, and %s acknowledged", at, h.end)
		}
	}
	for range 3 {
		pgtest.Exec(t, c.DSN(), write, "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	all[0].goesOn(c)
	waitRestart(t, c, "s", all[0].end-1)
	all[1].nextGoesOn(c, walchan.WithSlot("t"), walchan.WithProof(true))
	for _, h := range all {
		if h.compare(c, 1); h.s.Stats().Unproven {
			t.Error("it was not proven")
		}
	}
}

// Without a slot the server may have removed the WAL that the proof needs, but not what comes next.
func TestPhysicalUnproven(t *testing.T) {
	c := quiet(t, "0")
	h := newWALHistory(t)
	h.begin(c, stored)
	h.leavesAtTheEndOfASegment(c)
	removed := filepath.Join(c.DataDir(), "pg_wal", pgtest.Query(t, c.DSN(), "SELECT pg_walfile_name('"+(h.end-1).String()+"')"))
	for i := 0; exists(removed); i++ {
		if i == 20 {
			t.Fatal("the server keeps its WAL")
		}
		pgtest.Exec(t, c.DSN(), "CREATE TABLE IF NOT EXISTS again ()", "CHECKPOINT")
	}
	other := newWALHistory(t)
	other.last = h.last
	other.name <- c
	ok(t, other.subscribe(walchan.WithCheckpoint(other.last.Checkpoint()), walchan.WithProof(true)))
	other.endsWith(walchan.ErrUnproven, "removed the WAL from")
	<-other.name
	other.nextGoesOn(c)
	h.goesOn(c)
	for _, h := range []*walHistory{h, other} {
		if !h.s.Stats().Unproven {
			t.Error("Stats does not say that it is unproven")
		}
	}
	h.leaves()
	h.nextGoesOn(c, walchan.WithProof(true))
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// The checkpoint of each message goes on after it, and that of the history before it.
func TestPhysicalCheckpoints(t *testing.T) {
	primary := ownCluster(t)
	standby := primary.Standby(t)
	h := newWALHistory(t)
	h.begin(standby, stored)
	pgtest.Exec(t, primary.DSN(), write, write)
	h.receives(primary)
	promoted(t, standby)
	pgtest.Exec(t, standby.DSN(), "SELECT pg_switch_wal()", write)
	var all []walchan.Message
	before := h.last
	for end := flushed(t, standby); h.end < end; {
		all = append(all, h.take())
		h.s.Ack(all[len(all)-1])
	}
	if c := h.s.Checkpoint(); c.IsZero() {
		t.Error("the stream has no checkpoint")
	}
	mustClose(t, h.s)
	for i, m := range all {
		cp := m.Checkpoint()
		text, err := cp.Value()
		if err != nil || !strings.HasPrefix(text.(string), "wp1:") {
			t.Fatalf("%v has the checkpoint %v, %v", m, text, err)
		}
		if n, comparable := before.Checkpoint().Compare(cp); !comparable || n > 0 || n == 0 && m.Kind == walchan.WAL {
			t.Errorf("%v: %s is not after %s", m, cp, before.Checkpoint())
		}
		before = m
		follows := m // a history is repeated
		switch {
		case m.Kind == walchan.WAL && i+1 < len(all):
			follows = all[i+1]
		case m.Kind == walchan.WAL:
			pgtest.Exec(t, standby.DSN(), write)
			follows = walchan.Message{Kind: walchan.WAL, LSN: m.End()}
		}
		if i > 2 && i+2 < len(all) && follows.LSN%segmentSize != 0 && m.LSN%segmentSize != 0 {
			continue // they are all alike
		}
		parsed, err := walchan.ParseCheckpoint(text.(string))
		ok(t, err)
		s := physical(t, standby, walchan.WithCheckpoint(parsed), walchan.WithProof(true))
		if got := next(t, s); got.Kind != follows.Kind || got.LSN != follows.LSN {
			t.Errorf("after %v comes %v, want %v", m, got, follows)
		}
		mustClose(t, s)
	}
	if _, err := next(t, physical(t, standby, walchan.WithWALFrom(all[len(all)-1].LSN, 0))).Checkpoint().Value(); !errors.Is(err, walchan.ErrCheckpoint) {
		t.Errorf("a checkpoint without WithCheckpoint: %v", err)
	}
	try := func(opts ...walchan.Option) error {
		s, err := walchan.SubscribePhysical(t.Context(), primary.DSN(), append(opts, walchan.WithLogger(logTo(t)))...)
		if err == nil {
			s.Close()
		}
		return err
	}
	cp := walchan.WithCheckpoint(all[len(all)-1].Checkpoint())
	check(t, try(cp, walchan.WithWALFrom(1, 0)), walchan.ErrOptions, "exclude one another")
	check(t, try(cp, walchan.WithUpgradedFrom("1")), walchan.ErrOptions, "WithUpgradedFrom")
	check(t, try(cp, walchan.WithSlot("s"), walchan.WithCreateSlot()), walchan.ErrCheckpoint, `slot "s"`, "without a slot")
	check(t, try(cp), walchan.ErrDiverged, "timeline 2")
	text := "wc1:" + h.s.Source().SystemID + "::s:1:0:0/10:0/0:0:0:0:00000000:"
	logical, err := walchan.ParseCheckpoint(fmt.Sprintf("%s%08X", text, crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli))))
	ok(t, err)
	check(t, try(walchan.WithCheckpoint(logical)), walchan.ErrCheckpoint, "logical")
	failed := errors.New("the target is down")
	if err := try(walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return walchan.Checkpoint{}, failed })); !errors.Is(err, failed) {
		t.Errorf("the consumer's error is %v", err)
	}
}

// The process that had the slot before has stored more until this one has it.
func TestPhysicalCheckpointIsReadAgain(t *testing.T) {
	c := ownCluster(t)
	h := newWALHistory(t)
	slot := walchan.WithSlot("s")
	h.begin(c, stored, slot, walchan.WithCreateSlot())
	pgtest.Exec(t, c.DSN(), write)
	h.receives(c)
	early := h.last.Checkpoint()
	pgtest.Exec(t, c.DSN(), write)
	h.receives(c)
	mustClose(t, h.s)
	var asked atomic.Int32
	ok(t, h.subscribe(slot, walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) {
		if asked.Add(1) == 1 {
			return early, nil
		}
		return h.last.Checkpoint(), nil
	})))
	pgtest.Exec(t, c.DSN(), write)
	h.receives(c) // which fails if anything is repeated
	h.compare(c, 1)
}
