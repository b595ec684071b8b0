package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
)

// Pipelines that are cancelled, fail, or whose sink is stuck beyond the grace, over and over, at random moments, bring every
// row of a real server into the sink.
func TestNothingIsLostOfARealServer(t *testing.T) {
	const n = 5000
	r := pgtest.Seeded(t)
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE items (id int PRIMARY KEY, name text); CREATE PUBLICATION p FOR TABLE items",
		"SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")
	traffic := make(chan struct{})
	go func() {
		defer close(traffic)
		for i := 0; i < n; i += 10 {
			db.Exec(t, fmt.Sprintf("INSERT INTO items SELECT i, 'x' FROM generate_series(%d, %d) i", i, i+9))
		}
	}()
	stored := make(map[int]bool)
	for runs, last := 0, false; len(stored) < n; runs++ {
		select {
		case <-traffic:
			last = runs > 20
		default:
		}
		how := r.IntN(3)
		if last {
			how = 3
		}
		err := storeRows(t, db, r, how, stored, n)
		if want := []error{nil, errBroken, pipeline.ErrGrace, nil}[how]; err != nil && !errors.Is(err, want) {
			t.Fatalf("run %d, %d: %v", runs, how, err)
		}
	}
	<-traffic
	if got := db.Query(t, "SELECT count(*) FROM items"); got != fmt.Sprint(len(stored)) {
		t.Errorf("%s rows in the table, %d stored", got, len(stored))
	}
}

// storeRows stores rows for a while: until it is cancelled (0), something breaks (1), a sink that is stuck is given up (2), or
// all are there (3).
func storeRows(t *testing.T, db pgtest.DB, r *rand.Rand, how int, stored map[int]bool, n int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := walchan.Subscribe(ctx, db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"),
		walchan.WithWaitForSlot(), walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	var event atomic.Bool
	timer := time.AfterFunc(time.Duration(r.IntN(100))*time.Millisecond, func() {
		event.Store(true)
		switch how {
		case 0, 2:
			cancel()
		case 1:
			time.AfterFunc(50*time.Millisecond, cancel) // nothing may be left to break at
		}
	})
	defer timer.Stop()
	grace := time.Minute
	if how == 2 {
		grace = 10 * time.Millisecond
	}
	broken := r.IntN(2) // which stage
	g := pipeline.New(ctx, stream, grace)
	ids := pipeline.Keyed(g, g.Source(), 4, pipeline.ByKey, func(_ context.Context, m walchan.Message) (int, error) {
		if how == 1 && broken == 0 && event.Load() {
			return 0, errBroken
		}
		return id(m), nil
	})
	pipeline.Into(g, pipeline.Batch(g, ids, pipeline.Limit{Items: 100}), pipeline.SinkFunc[int](func(ctx context.Context, batch []int) error {
		switch {
		case how == 1 && event.Load():
			return errBroken
		case how == 2 && event.Load():
			<-ctx.Done()
			return ctx.Err()
		}
		for _, id := range batch {
			stored[id] = true
		}
		if how == 3 && len(stored) == n {
			cancel()
		}
		return nil
	}))
	return g.Wait()
}
