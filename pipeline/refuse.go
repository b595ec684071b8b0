package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/walchan/walchan"
)

// RefusedError is what a Sink returns when an item is at fault, and not the sink: it would be refused for ever. Of the batch
// that it is in, nothing counts as written.
type RefusedError struct {
	Item int // its index in the batch; -1: the sink cannot tell
	Err  error
}

func (e *RefusedError) Error() string {
	if e.Item < 0 {
		return fmt.Sprintf("an item is refused: %v", e.Err)
	}
	return fmt.Sprintf("item %d of the batch is refused: %v", e.Item, e.Err)
}

// Unwrap returns Err.
func (e *RefusedError) Unwrap() error { return e.Err }

// Skip leaves out the items that s refuses, and logs them (nil: to slog.Default()): of a walchan.Message its String, of other
// items nothing. Without it such an item stops the group. The checkpoint of what is left out is stored.
func Skip[T any](s Sink[T], log *slog.Logger) Sink[T] {
	if log == nil {
		log = slog.Default()
	}
	return sift(s, func(_ context.Context, item T, err error) error {
		log.Error("the sink refuses an item, which is skipped", "item", describe(item), "error", err)
		return nil
	})
}

// Dead is an item that a sink refused, and why.
type Dead[T any] struct {
	Item T
	Err  error
}

// DeadLetter writes the items that s refuses into other, and goes on when they are durable there.
func DeadLetter[T any](s Sink[T], other Sink[Dead[T]]) Sink[T] {
	return sift(s, func(ctx context.Context, item T, err error) error {
		return other.Write(ctx, []Dead[T]{{item, err}})
	})
}

func describe(item any) string {
	if m, ok := item.(walchan.Message); ok {
		return m.String()
	}
	return ""
}

// sift gives each refused item to refused, and the others to the sink.
func sift[T any](s Sink[T], refused func(ctx context.Context, item T, err error) error) Sink[T] {
	return put(s, sieve[T]{refused, checkpointOf[T]()}.write)
}

type sieve[T any] struct {
	refused    func(ctx context.Context, item T, err error) error
	checkpoint func(T) walchan.Checkpoint // nil: a T has none
}

func (s sieve[T]) write(ctx context.Context, batch []T, c walchan.Checkpoint, write writing[T]) error {
	for {
		err := write(ctx, batch, c)
		var refused *RefusedError
		if len(batch) == 0 || !errors.As(err, &refused) {
			return err
		}
		i := refused.Item
		if len(batch) == 1 {
			i = 0
		}
		if i < 0 || i >= len(batch) {
			// Which it is shows when the halves are written by themselves.
			half := len(batch) / 2
			if err := s.write(ctx, batch[:half], s.within(batch[:half], c), write); err != nil {
				return err
			}
			batch = batch[half:]
			continue
		}
		if err := s.refused(ctx, batch[i], refused.Err); err != nil {
			return fmt.Errorf("set aside a refused item: %w", err)
		}
		if batch = slices.Concat(batch[:i], batch[i+1:]); len(batch) == 0 && c.IsZero() {
			return nil
		}
	}
}

// within returns the checkpoint to store with a part of a batch, the whole of which has c.
func (s sieve[T]) within(part []T, c walchan.Checkpoint) walchan.Checkpoint {
	if c.IsZero() || s.checkpoint == nil {
		return walchan.Checkpoint{}
	}
	return newest(part, s.checkpoint)
}
