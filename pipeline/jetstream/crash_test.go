package jetstream_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

// A server that is killed and started again while one sink publishes.
func TestServerKilled(t *testing.T) {
	const rows = 20_000
	p := startNATS(t)
	nc := dial(t, p.url())
	sink := pipeline.Retry(open(t, nc, "S"), soon)
	var entries []walchantest.Entry
	for i := range rows {
		entries = append(entries, items.Insert(i, "x"))
	}
	msgs := walchantest.Messages(entries...)
	written := make(chan error, 1)
	go func() {
		for i := 0; i < rows; i += 500 {
			if err := sink.Write(t.Context(), msgs[i:i+500]); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for range 8 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // any moment
		p.kill()
		p.start()
	}
	if len(written) > 0 {
		t.Error("all was written before the last server was killed")
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	all := stored(t, nc, "S")
	for i, m := range all {
		if id := parse(t, m).After["id"]; id != float64(i) {
			t.Fatalf("message %d has the row %v", i, id)
		}
	}
	if len(all) != rows {
		t.Errorf("%d of %d messages are stored", len(all), rows)
	}
}

// Writes that are cancelled at any moment: one that succeeds has stored all, so that the next one finds the stream as it was left.
func TestWriteCancelled(t *testing.T) {
	const rounds, rows = 200, 100
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	var entries []walchantest.Entry
	for i := range rounds * rows {
		entries = append(entries, items.Insert(i, "x"))
	}
	all := walchantest.Messages(entries...)
	began := time.Now()
	write(t, sink, all[:rows])
	usual, succeeded := time.Since(began), 0
	for i := 1; i < rounds; i++ {
		batch := all[i*rows : (i+1)*rows]
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(3*usual))
		err := sink.Write(ctx, batch)
		if err == nil {
			succeeded++
		} else if ctx.Err() == nil {
			t.Fatalf("batch %d, behind one that was stored: %v", i, err)
		} else if err := pipeline.Retry(sink, soon).Write(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if n := len(stored(t, nc, name)); n != rounds*rows || succeeded == 0 || succeeded == rounds {
		t.Errorf("%d messages, %d of %d writes succeeded", n, succeeded, rounds)
	}
}
