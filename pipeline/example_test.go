package pipeline_test

import (
	"context"
	"encoding/json"
	"fmt"
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
