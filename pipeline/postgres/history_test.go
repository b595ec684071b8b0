package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/postgres"
)

// refused fails the test unless every later process is refused, too: with one of these errors, and nothing is changed by it.
func (p pair) refused(t *testing.T, dsn string, kinds ...error) {
	t.Helper()
	stored := p.target.Query(t, "SELECT checkpoint FROM walchan_position")
	for range 3 {
		sink := open(t, p.target)
		stream, err := subscribe(t.Context(), dsn, p.source.Name, sink, walchan.WithCreateSlot())
		if err == nil {
			stream.Close()
		}
		is := false
		for _, kind := range kinds {
			is = is || errors.Is(err, kind)
		}
		if !is {
			t.Errorf("the next process: %v", err)
		}
		sink.Close()
	}
	if now := p.target.Query(t, "SELECT checkpoint FROM walchan_position"); now != stored {
		t.Errorf("stored is %s, and was %s", now, stored)
	}
}

// Every later process refuses a source that has lost applied changes: first without a slot, and then with a slot made by hand.
func TestSourceThatHasLostWhatWasApplied(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	p := pair{pgtest.DB{Cluster: primary, Name: "postgres"}, pgtest.Database(t)}.begin(t, "CREATE TABLE t (id int PRIMARY KEY)")
	standby := primary.Standby(t)
	p.source.Exec(t, "INSERT INTO t SELECT generate_series(1, 100)")
	lsn := p.source.Query(t, "SELECT pg_current_wal_flush_lsn()")
	pgtest.Wait(t, standby.DSN(), "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'")
	pgtest.Exec(t, standby.DSN(), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	pgtest.Wait(t, standby.DSN(), "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
	p.source.Exec(t, "INSERT INTO t SELECT generate_series(101, 500)")
	p.catchUp(t)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, standby.DSN(), "INSERT INTO t SELECT generate_series(101, 103)", "INSERT INTO t SELECT generate_series(1000, 5000)")
	p.refused(t, standby.DSN(), walchan.ErrSlotMissing, walchan.ErrDiverged)
	pgtest.Exec(t, standby.DSN(), "SELECT pg_create_logical_replication_slot('"+p.source.Name+"', 'pgoutput')")
	p.refused(t, standby.DSN(), walchan.ErrDiverged)
	if got := p.target.Query(t, "SELECT count(*) FROM t"); got != "500" {
		t.Errorf("%s rows", got)
	}
}

// A target has lost changes, as after a fail-over, and the slot does not have them any more. The process that sees it ends, and
// every later process refuses the target.
func TestTargetThatHasLostWhatItHad(t *testing.T) {
	t.Parallel()
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY)")
	sink := open(t, p.target)
	stream, err := p.subscribe(t.Context(), sink)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	apply := func() error {
		batch := []walchan.Message{<-stream.C(), <-stream.C(), <-stream.C()}
		err := pipeline.Retry(sink, soon).Write(t.Context(), batch)
		if err == nil {
			stream.AckThrough(batch[2])
		}
		return err
	}
	p.source.Exec(t, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)")
	for n := range 2 {
		if err := apply(); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			p.target.Exec(t, "CREATE TABLE backup AS SELECT * FROM walchan_position")
		}
	}
	if err := stream.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.target.Exec(t, "DELETE FROM t WHERE id = 2", "DELETE FROM walchan_position", "INSERT INTO walchan_position SELECT * FROM backup",
		"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	err = apply()
	if permanent := (*backoff.PermanentError)(nil); !errors.Is(err, postgres.ErrTargetLost) || !errors.Is(err, walchan.ErrSlotMoved) || !errors.As(err, &permanent) {
		t.Errorf("error is %v", err)
	}
	stream.Close()
	sink.Close()
	p.refused(t, p.source.DSN(), walchan.ErrSlotMoved)
}

// Somebody else writes where the sink does, beside its lock.
func TestCheckpointThatSomebodyElseHasChanged(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"changed": "UPDATE walchan_position SET checkpoint = NULL", "moved": "UPDATE walchan_position SET commit_lsn = '0/1'", "gone": "DELETE FROM walchan_position",
	} {
		t.Run(name, func(t *testing.T) {
			db := pgtest.Database(t)
			db.Exec(t, "CREATE TABLE items (id int PRIMARY KEY, v text)")
			sink := open(t, db)
			msgs := messages(3)
			if err := sink.Write(t.Context(), msgs[:1]); err != nil {
				t.Fatal(err)
			}
			db.Exec(t, sql)
			for _, c := range []walchan.Checkpoint{msgs[1].Checkpoint(), msgs[0].Checkpoint(), {}} {
				if err := sink.WriteCheckpoint(t.Context(), msgs[1:2], c); !errors.Is(err, postgres.ErrTargetLost) {
					t.Errorf("with %v: %v", c.Position(), err)
				}
			}
			if got := db.Query(t, "SELECT count(*) FROM items"); got != "1" {
				t.Errorf("%s rows", got)
			}
		})
	}
}

// A process that has another list of publications than the one before, which has stopped in the middle of a transaction.
func TestOtherPublicationsInTheMiddleOfATransaction(t *testing.T) {
	t.Parallel()
	p := pair{pgtest.Database(t), pgtest.Database(t)}
	for _, db := range []pgtest.DB{p.source, p.target} {
		db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)")
	}
	p.source.Exec(t, "CREATE PUBLICATION p FOR TABLE t", "CREATE PUBLICATION q FOR TABLE u")
	p.makeSlot(t)
	p.source.Exec(t, "DO $$ BEGIN FOR i IN 1..500 LOOP INSERT INTO t VALUES (i); INSERT INTO u VALUES (i); END LOOP; END $$")
	sink := open(t, p.target)
	stream, err := p.subscribe(t.Context(), sink, walchan.WithPublication("p", "q"))
	if err != nil {
		t.Fatal(err)
	}
	var batch []walchan.Message
	for m := range stream.C() {
		if batch = append(batch, m); m.Ordinal == 707 {
			break
		}
	}
	if err := sink.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	stream.AckThrough(batch[len(batch)-1])
	stream.Close()
	sink.Close()
	if got := p.target.Query(t, "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM u)"); got != "353 353" {
		t.Fatalf("the first process has applied %s", got)
	}
	p.catchUp(t)
	p.same(t, "t")
}

// What an older version has stored is trusted once, and replaced.
func TestPositionOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	p := newPair(t, "CREATE TABLE t (v int)") // whoever applies twice has a row twice
	p.source.Exec(t, "INSERT INTO t VALUES (1)", "INSERT INTO t SELECT generate_series(2, 5)")
	p.catchUp(t)
	old := func() { p.target.Exec(t, "ALTER TABLE walchan_position DROP COLUMN checkpoint") }
	old()
	p.source.Exec(t, "INSERT INTO t SELECT generate_series(6, 9)")
	p.catchUp(t)
	p.same(t, "t")
	if got := p.target.Query(t, "SELECT checkpoint FROM walchan_position"); !strings.HasPrefix(got, "wc1:") {
		t.Errorf("stored is %q", got)
	}
	old()
	p.catchUp(t)
	if got := p.target.Query(t, "SELECT checkpoint FROM walchan_position"); !strings.HasPrefix(got, "wc1:") {
		t.Errorf("stored is %q, without rows", got)
	}
	// A slot, and nothing applied: then nothing is known.
	old()
	p.target.Exec(t, "UPDATE walchan_position SET commit_lsn = '0/0', ordinal = 0")
	if _, err := p.subscribe(t.Context(), open(t, p.target)); !errors.Is(err, walchan.ErrCheckpoint) {
		t.Errorf("error is %v", err)
	}
}

// A pipeline that leaves out every row lets the slot go on, and the server stop. The environment variable says how many MB of WAL.
func TestPipelineThatLeavesOutEveryRow(t *testing.T) {
	t.Parallel()
	megabytes, err := strconv.Atoi(os.Getenv("WALCHAN_LEFT_OUT_MB"))
	if err != nil {
		megabytes = 40
	}
	server := pgtest.Start(t, pgtest.WithSetting("max_wal_size", "64MB"))
	p := pair{pgtest.DB{Cluster: server, Name: "postgres"}, pgtest.Database(t)}.begin(t, "CREATE TABLE t (v text)", "ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
	sink := open(t, p.target)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stream, err := p.subscribe(ctx, sink)
	if err != nil {
		t.Fatal(err)
	}
	g := pipeline.New(ctx, stream, time.Minute)
	none := pipeline.Filter(g, g.Source(), func(walchan.Message) bool { return false })
	pipeline.Into(g, pipeline.Batch(g, none, pipeline.Limit{}), pipeline.Retry(sink, soon))
	const retained = " FROM pg_replication_slots WHERE slot_name = 'postgres'"
	for range megabytes / 10 {
		p.source.Exec(t, "INSERT INTO t SELECT repeat(md5(g::text), 320) FROM generate_series(1, 1000) g")
		p.source.Wait(t, "SELECT pg_current_wal_flush_lsn() - confirmed_flush_lsn < 32 * 1024 * 1024"+retained)
	}
	end := p.source.Query(t, "SELECT pg_current_wal_flush_lsn()")
	p.source.Wait(t, "SELECT confirmed_flush_lsn >= '"+end+"'::pg_lsn - 16 * 1024 * 1024"+retained)
	p.source.Exec(t, "CHECKPOINT") // what runs is logged, from which a slot can decode next
	p.source.Exec(t, "INSERT INTO t VALUES ('last')")
	p.source.Wait(t, "SELECT pg_current_wal_flush_lsn() - restart_lsn < 32 * 1024 * 1024"+retained)
	began := time.Now()
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := server.Stop(limit, pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %v", time.Since(began))
	if log := server.Log(); !strings.Contains(log, "database system is shut down") {
		t.Error("the server was not shut down")
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.source.Exec(t, "INSERT INTO t VALUES ('the stream is back')")
	p.source.Wait(t, "SELECT confirmed_flush_lsn >= '"+p.source.Query(t, "SELECT pg_current_wal_flush_lsn()")+"'"+retained)
	stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := p.target.Query(t, "SELECT count(*) FROM t"); got != "0" {
		t.Errorf("%s rows", got)
	}
}

// The second process waits for the slot of the first one, and then goes on after the checkpoint that the first one has stored last.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	p := newPair(t, "CREATE TABLE t (v int)") // whoever applies twice has a row twice
	type process struct {
		stop context.CancelFunc
		done chan error
	}
	start := func() process {
		ctx, stop := context.WithCancel(t.Context())
		running := process{stop, make(chan error, 1)}
		sink := open(t, p.target)
		go func() {
			running.done <- func() error {
				defer sink.Close()
				stream, err := p.subscribe(ctx, sink, walchan.WithWaitForSlot(), walchan.WithRetry(func() backoff.BackOff { return backoff.NewConstantBackOff(50 * time.Millisecond) }))
				if err != nil {
					return err
				}
				g := pipeline.New(ctx, stream, time.Minute)
				pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 3}), pipeline.Retry(sink, soon))
				return g.Wait()
			}()
		}()
		return running
	}
	first := start()
	rows := 0
	insert := func() {
		p.source.Exec(t, fmt.Sprintf("INSERT INTO t SELECT generate_series(%d, %d)", rows+1, rows+100))
		rows += 100
	}
	for range 4 {
		insert()
		p.target.Wait(t, fmt.Sprintf("SELECT count(*) >= %d FROM t", rows-50)) // in the middle of a transaction
		second := start()
		select {
		case err := <-second.done:
			t.Fatalf("the second process has ended: %v", err)
		default:
		}
		insert()
		first.stop()
		if err := <-first.done; err != nil {
			t.Fatal(err)
		}
		p.target.Wait(t, fmt.Sprintf("SELECT count(*) >= %d FROM t", rows))
		first = second
	}
	first.stop()
	if err := <-first.done; err != nil {
		t.Fatal(err)
	}
	p.same(t, "t")
}
