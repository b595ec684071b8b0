package postgres_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/postgres"
)

// The target is killed and started, the stream's connection is terminated, over and over: one process, that lives on, applies
// each change once.
func TestRestartsOfTheTarget(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	target := pgtest.Start(t)
	p := pair{pgtest.Database(t), pgtest.DB{Cluster: target, Name: "postgres"}}
	p.source.Exec(t, schema...)
	p.target.Exec(t, schema...)
	p.source.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('"+p.source.Name+"', 'pgoutput')")

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stream, err := subscribe(ctx, p.source.DSN(), p.source.Name)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := postgres.Open(ctx, p.target.DSN(), stream.Source(), postgres.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	counted := pipeline.Count(pipeline.Timeout(sink, 10*time.Second))
	replicated := make(chan error, 1)
	go func() { replicated <- replicate(ctx, stream, pipeline.Retry(counted, soon)) }()

	conn, traffic := connect(t, p.source.DSN()), rand.New(rand.NewPCG(r.Uint64(), 0))
	for range 6 {
		for range 100 {
			if _, err := conn.Exec(ctx, randomTransaction(traffic)); err != nil {
				t.Fatal(err)
			}
			if traffic.IntN(100) == 0 {
				p.source.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+p.source.Name+"'")
			}
		}
		if err := target.Kill(); err != nil {
			t.Fatal(err)
		}
		p.source.Exec(t, "INSERT INTO journal VALUES ('while it is down')")
		for failed := counted.Stats().Errors; counted.Stats().Errors == failed && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
		if err := target.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	p.source.Exec(t, finish)
	if err := <-replicated; err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		p.same(t, table)
	}
	if st := counted.Stats(); !st.Failing.IsZero() || st.Errors < 6 {
		t.Errorf("counted %+v", st)
	}
}
