package pipeline

import (
	"context"

	"github.com/walchan/walchan"
)

// writing is how a sink takes a batch: Write, or WriteCheckpoint.
type writing[T any] func(ctx context.Context, batch []T, c walchan.Checkpoint) error

// layer is what is put around a sink.
type layer[T any] struct {
	sink   Sink[T]
	around func(ctx context.Context, batch []T, c walchan.Checkpoint, write writing[T]) error
}

// storingLayer is one around a Checkpointer, and is one.
type storingLayer[T any] struct {
	layer[T]
	checkpointer Checkpointer[T]
}

// put puts a layer around a sink.
func put[T any](s Sink[T], around func(ctx context.Context, batch []T, c walchan.Checkpoint, write writing[T]) error) Sink[T] {
	l := layer[T]{s, around}
	if c := checkpointer(s); c != nil {
		return storingLayer[T]{l, c}
	}
	return l
}

func (l layer[T]) Write(ctx context.Context, batch []T) error {
	return l.around(ctx, batch, walchan.Checkpoint{}, func(ctx context.Context, batch []T, _ walchan.Checkpoint) error {
		return l.sink.Write(ctx, batch)
	})
}

func (l storingLayer[T]) WriteCheckpoint(ctx context.Context, batch []T, c walchan.Checkpoint) error {
	return l.around(ctx, batch, c, l.checkpointer.WriteCheckpoint)
}

func (l storingLayer[T]) Checkpoint(ctx context.Context) (c walchan.Checkpoint, err error) {
	err = l.around(ctx, nil, walchan.Checkpoint{}, func(ctx context.Context, _ []T, _ walchan.Checkpoint) (err error) {
		c, err = l.checkpointer.Checkpoint(ctx)
		return err
	})
	return c, err
}

// checkpointer returns s as a Checkpointer; nil if it is none. A Counter has the methods, whatever it counts.
func checkpointer[T any](s Sink[T]) Checkpointer[T] {
	if counter, ok := s.(*Counter[T]); ok && counter.checkpointer == nil {
		return nil
	}
	c, _ := s.(Checkpointer[T])
	return c
}
