package pipeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/encode"
	"github.com/walchan/walchan/pipeline/postgres"
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

func _(ctx context.Context, source, target string) error {
	sink, err := postgres.Open(ctx, target)
	if err != nil {
		return err
	}
	defer sink.Close()
	stream, err := walchan.Subscribe(ctx, source, walchan.WithSlot("shop"), walchan.WithCreateSlot(), walchan.WithPublication("shop"),
		walchan.WithTransactions(), walchan.WithCheckpointFrom(sink.Checkpoint), walchan.WithDrainTimeout(30*time.Second))
	if err != nil {
		return err
	}
	g := pipeline.New(ctx, stream, 30*time.Second)
	whole := pipeline.Transactions(g, g.Source(), pipeline.Limit{})
	batches := pipeline.Concat(g, pipeline.Batch(g, whole, pipeline.Limit{Items: 1000}))
	pipeline.Into(g, batches, pipeline.Retry(sink, pipeline.RetryPolicy{}))
	return g.Wait()
}

type (
	order struct {
		ID     int
		Status string
	}
	sink struct{ conn *pgx.Conn }
)

func (s *sink) WriteCheckpoint(ctx context.Context, batch []order, c walchan.Checkpoint) error {
	return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		for _, o := range batch {
			if _, err := tx.Exec(ctx, "INSERT INTO orders VALUES ($1, $2)", o.ID, o.Status); err != nil {
				return err
			}
		}
		if c.IsZero() { // nothing new: what is stored stays
			return nil
		}
		_, err := tx.Exec(ctx, "UPDATE progress SET checkpoint = $1", c)
		return err
	})
}

var _ = (*sink).WriteCheckpoint

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
