package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func toDoc(_ context.Context, m walchan.Message) (json.RawMessage, error) {
	if m.Kind != walchan.Insert && m.Kind != walchan.Update {
		return nil, pipeline.ErrSkip
	}
	return m.New().AppendJSON(nil)
}

// index keeps a search index: documents are made by eight goroutines, and stored in batches.
func index(ctx context.Context, stream *walchan.Stream, sink pipeline.Sink[json.RawMessage]) error {
	g := pipeline.New(ctx, stream, 30*time.Second)
	docs := pipeline.Keyed(g, g.Source(), 8, pipeline.ByKey, toDoc)
	batches := pipeline.Batch(g, docs, pipeline.Limit{Items: 500, Wait: time.Second})
	pipeline.Into(g, batches, sink)
	return g.Wait()
}

func Example() {
	books := walchantest.NewTable("books", "id int primary key", "title text")
	srv := walchantest.NewServer(books.Insert(1, "Emma"), books.Update(1, "Persuasion"), books.Delete(1))
	defer srv.Close()
	stream, err := srv.Subscribe(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	sink := pipeline.SinkFunc[json.RawMessage](func(_ context.Context, docs []json.RawMessage) error {
		for _, doc := range docs {
			fmt.Printf("%s\n", doc)
		}
		return nil
	})
	if err := index(context.Background(), stream, sink); err != nil {
		fmt.Println(err)
	}
	fmt.Println("confirmed:", srv.Confirmed(), "of 3")
	// Output:
	// {"id":1,"title":"Emma"}
	// {"id":1,"title":"Persuasion"}
	// confirmed: 3 of 3
}

func ExampleNewWriter() {
	books := walchantest.NewTable("books", "id int primary key", "title text")
	srv := walchantest.NewServer(walchantest.Tx(books.Insert(1, "Emma"), books.Insert(2, "Sanditon")), books.Delete(2))
	defer srv.Close()
	stream, err := srv.Subscribe(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	g := pipeline.New(context.Background(), stream, time.Second)
	pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{}), pipeline.NewWriter(os.Stdout, pipeline.JSON))
	if err := g.Wait(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"kind":"insert","schema":"public","table":"books","xid":700,"position":"0/1000180:2","time":"2026-01-01T00:00:00Z","new":{"id":1,"title":"Emma"}}
	// {"kind":"insert","schema":"public","table":"books","xid":700,"position":"0/1000180:3","time":"2026-01-01T00:00:00Z","new":{"id":2,"title":"Sanditon"}}
	// {"kind":"delete","schema":"public","table":"books","xid":701,"position":"0/10002B0:2","time":"2026-01-01T00:00:01Z","old":{"id":2}}
}

func ExampleRetry() {
	down := true
	sink := pipeline.SinkFunc[string](func(_ context.Context, batch []string) error {
		if down {
			down = false
			return errors.New("not reachable")
		}
		for i, word := range batch {
			if word == "" {
				return &pipeline.RefusedError{Item: i, Err: errors.New("empty")}
			}
		}
		fmt.Println("stored:", batch)
		return nil
	})
	graveyard := pipeline.SinkFunc[pipeline.Dead[string]](func(_ context.Context, dead []pipeline.Dead[string]) error {
		fmt.Println("not stored:", dead[0].Err)
		return nil
	})
	counted := pipeline.Count(pipeline.Timeout(sink, 10*time.Second))
	retried := pipeline.Retry(counted, pipeline.RetryPolicy{Logger: slog.New(slog.DiscardHandler)})

	words := make(chan string, 3)
	words <- "one"
	words <- ""
	words <- "two"
	close(words)
	g := pipeline.New(context.Background(), nil, time.Second) // no stream: any channel will do
	batches := pipeline.Batch(g, pipeline.Plain(g, words), pipeline.Limit{Items: 3, Wait: time.Second})
	pipeline.Into(g, batches, pipeline.DeadLetter(retried, graveyard))
	if err := g.Wait(); err != nil {
		fmt.Println(err)
	}
	fmt.Println("errors:", counted.Stats().Errors)
	// Output:
	// not stored: empty
	// stored: [one two]
	// errors: 2
}
