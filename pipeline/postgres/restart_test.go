package postgres_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
)

// The target is killed and started, the stream's connection is terminated, over and over: one process, that lives on, applies
// each change once.
func TestRestartsOfTheTarget(t *testing.T) {
	t.Parallel()
	r := pgtest.Seeded(t)
	target := pgtest.Start(t)
	p := pair{pgtest.Database(t), pgtest.DB{Cluster: target, Name: "postgres"}}.begin(t, schema...)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sink := open(t, p.target)
	stream, err := p.subscribe(ctx, sink)
	if err != nil {
		t.Fatal(err)
	}
	counted := pipeline.Count(pipeline.Timeout(sink, 10*time.Second))
	replicated := make(chan error, 1)
	go func() { replicated <- replicate(ctx, stream, pipeline.Retry(counted, soon)) }()

	conn, traffic := pgtest.Connect(t, p.source.DSN()), rand.New(rand.NewPCG(r.Uint64(), 0))
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
