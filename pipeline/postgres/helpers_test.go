package postgres_test

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/postgres"
	"github.com/walchan/walchan/walchantest"
)

func TestMain(m *testing.M) {
	if os.Getenv(replicaSource) != "" {
		replicateUntilKilled()
	}
	flag.Parse()
	os.Exit(m.Run())
}

var (
	quiet = slog.New(slog.DiscardHandler)
	soon  = pipeline.RetryPolicy{Logger: quiet, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(10 * time.Millisecond) }}
)

// pair is a source and its replica.
type pair struct{ source, target pgtest.DB }

// newPair makes two databases with the same tables, a publication p of all of them, and a slot named after the source, from which
// the target is a copy.
func newPair(t testing.TB, tables ...string) pair {
	t.Helper()
	return pair{pgtest.Database(t), pgtest.Database(t)}.begin(t, tables...)
}

func (p pair) begin(t testing.TB, tables ...string) pair {
	t.Helper()
	p.source.Exec(t, tables...)
	p.target.Exec(t, tables...)
	p.source.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	p.makeSlot(t)
	return p
}

// makeSlot runs a process that has nothing but makes the slot.
func (p pair) makeSlot(t testing.TB) {
	t.Helper()
	sink := open(t, p.target)
	stream, err := p.subscribe(t.Context(), sink, walchan.WithCreateSlot())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	g := pipeline.New(ctx, stream, time.Minute)
	pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{}), sink)
	p.source.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+p.source.Name+"' AND NOT temporary")
	stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sink.Close()
}

func (p pair) subscribe(ctx context.Context, sink *postgres.Sink, opts ...walchan.Option) (*walchan.Stream, error) {
	return subscribe(ctx, p.source.DSN(), p.source.Name, sink, opts...)
}

func subscribe(ctx context.Context, source, slot string, sink *postgres.Sink, opts ...walchan.Option) (*walchan.Stream, error) {
	return walchan.Subscribe(ctx, source, append([]walchan.Option{walchan.WithSlot(slot), walchan.WithPublication("p"), walchan.WithTransactions(),
		walchan.WithCheckpointFrom(sink.Checkpoint), walchan.WithLogger(quiet)}, opts...)...)
}

// finish says to catchUp that nothing follows.
const finish = "SELECT pg_logical_emit_message(true, 'finish', '')"

// catchUp applies all that was written so far.
func (p pair) catchUp(t testing.TB, opts ...postgres.Option) {
	t.Helper()
	if err := p.catchUpError(t, opts...); err != nil {
		t.Fatal(err)
	}
}

func (p pair) catchUpError(t testing.TB, opts ...postgres.Option) error {
	t.Helper()
	p.source.Exec(t, finish)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sink := open(t, p.target, opts...)
	defer sink.Close()
	stream, err := p.subscribe(ctx, sink)
	if err != nil {
		t.Fatal(err)
	}
	return replicate(ctx, stream, sink)
}

// replicate applies what the stream delivers, until the message finish.
func replicate(ctx context.Context, stream *walchan.Stream, sink pipeline.Sink[walchan.Message]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := pipeline.New(ctx, stream, time.Minute)
	last := pipeline.Filter(g, pipeline.Transactions(g, g.Source(), pipeline.Limit{}), func(tx []walchan.Message) bool {
		for _, m := range tx {
			if m.Prefix() == "finish" {
				cancel()
			}
		}
		return true
	})
	pipeline.Into(g, pipeline.Concat(g, pipeline.Batch(g, last, pipeline.Limit{Items: 50})), sink)
	return g.Wait()
}

// same fails the test unless a table is the same in both.
func (p pair) same(t testing.TB, table string) {
	t.Helper()
	sql := "SELECT count(*) || E' rows\\n' || coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM " + table + " t"
	if want, got := p.source.Query(t, sql), p.target.Query(t, sql); got != want {
		t.Errorf("%s in the target is\n%.2000s\nin the source\n%.2000s", table, got, want)
	}
}

// messages are of n transactions of an INSERT each.
func messages(n int) []walchan.Message {
	var entries []walchantest.Entry
	for i := range n {
		entries = append(entries, items.Insert(i+1, "x"))
	}
	return walchantest.Messages(entries...)
}
