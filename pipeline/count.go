package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/walchan/walchan"
)

// SinkStats is what a Counter has seen.
type SinkStats struct {
	Batches, Items uint64        // that were written
	Busy           time.Duration // in Write, also where it failed

	Errors  uint64    // writes that failed
	Err     error     // the last one's error, until a write succeeds
	Failing time.Time // since when no write has succeeded; zero: the last one did
}

// Counter counts what its sink does.
type Counter[T any] struct {
	sink         Sink[T]
	checkpointer Checkpointer[T] // nil: it is none
	mu           sync.Mutex
	stats        SinkStats
}

// Count returns s with counters. Within Retry it sees each attempt:
//
//	counted := pipeline.Count(sink)
//	pipeline.Into(g, batches, pipeline.Retry(counted, pipeline.RetryPolicy{}))
func Count[T any](s Sink[T]) *Counter[T] { return &Counter[T]{sink: s, checkpointer: checkpointer(s)} }

// Write writes the batch into the sink.
func (c *Counter[T]) Write(ctx context.Context, batch []T) error {
	began := time.Now()
	return c.count(began, len(batch), c.sink.Write(ctx, batch))
}

// WriteCheckpoint writes the batch and the checkpoint into the sink. It fails if that is no Checkpointer.
func (c *Counter[T]) WriteCheckpoint(ctx context.Context, batch []T, checkpoint walchan.Checkpoint) error {
	if c.checkpointer == nil {
		return errNoCheckpointer
	}
	began := time.Now()
	return c.count(began, len(batch), c.checkpointer.WriteCheckpoint(ctx, batch, checkpoint))
}

// Checkpoint returns what the sink has stored. It fails if that is no Checkpointer.
func (c *Counter[T]) Checkpoint(ctx context.Context) (walchan.Checkpoint, error) {
	if c.checkpointer == nil {
		return walchan.Checkpoint{}, errNoCheckpointer
	}
	return c.checkpointer.Checkpoint(ctx)
}

var errNoCheckpointer = errors.New("pipeline: the sink that is counted stores no checkpoints")

func (c *Counter[T]) count(began time.Time, items int, err error) error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.stats
	s.Busy += now.Sub(began)
	s.Err = err
	switch {
	case err == nil:
		s.Batches++
		s.Items += uint64(items)
		s.Failing = time.Time{}
	default:
		s.Errors++
		if s.Failing.IsZero() {
			s.Failing = now
		}
	}
	return err
}

// Stats returns the counters, at any time, from any goroutine.
func (c *Counter[T]) Stats() SinkStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}
