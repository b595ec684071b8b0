package pipeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/encode"
)

// The code of docs/, compiled; TestReadme compares it.

func _(g *pipeline.Group, docs <-chan pipeline.Item[json.RawMessage]) error {
	for it := range docs {
		fmt.Println(it.Value)
		it.Ack()
	}
	return g.Wait()
}

func _(g *pipeline.Group, batches <-chan pipeline.Item[[]json.RawMessage], graveyard pipeline.Sink[pipeline.Dead[json.RawMessage]], client interface {
	Index(context.Context, []json.RawMessage) error
}) {
	sink := pipeline.SinkFunc[json.RawMessage](func(ctx context.Context, docs []json.RawMessage) error {
		return client.Index(ctx, docs)
	})

	counted := pipeline.Count(pipeline.Timeout(sink, 10*time.Second)) // counted.Stats() at any time
	retried := pipeline.Retry(counted, pipeline.RetryPolicy{})
	pipeline.Into(g, batches, pipeline.DeadLetter(retried, graveyard))
}

func _(stream *walchan.Stream, out io.Writer) error {
	e := encode.Bottledwater{Database: "shop"}
	var line []byte
	for msg := range stream.C() {
		var err error
		if line, err = e.Append(line[:0], msg); err != nil {
			return err
		}
		if len(line) > 0 {
			if _, err := out.Write(append(line, '\n')); err != nil {
				return err
			}
		}
		stream.Ack(msg)
	}
	return stream.Err()
}
