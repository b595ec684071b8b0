package pipeline

import "context"

// Sink is where a pipeline ends. Write returns nil once the whole batch is durable; then it is acknowledged. After an error
// the same batch may be written again, as a whole, whatever became of it. Calls do not overlap. Write must return soon after
// its context ends. It must not change the batch; it may keep the items.
//
// What makes a sink connects to where it writes, so that one that is down at the start is an error at once. Later
// errors are for Retry, unless they are marked as permanent by backoff.Permanent. One that an item is the reason for is marked
// by a *RefusedError, and is for Skip and DeadLetter.
// The text of errors is logged: it should not have row data in it.
//
// A sink that stores checkpoints is a Checkpointer, too.
type Sink[T any] interface {
	Write(ctx context.Context, batch []T) error
}

// SinkFunc is a function as a Sink.
type SinkFunc[T any] func(ctx context.Context, batch []T) error

// Write calls f.
func (f SinkFunc[T]) Write(ctx context.Context, batch []T) error { return f(ctx, batch) }

// Into writes each batch into s, and acknowledges it. An error of s stops the group.
//
// If s is a Checkpointer, also behind Retry, Timeout, Skip, DeadLetter and Count, Into calls WriteCheckpoint. It panics if a T has no
// checkpoint: it must be a walchan.Message, a []walchan.Message, or have a method Checkpoint() walchan.Checkpoint.
func Into[T any](g *Group, in <-chan Item[[]T], s Sink[T]) {
	if c := checkpointer(s); c != nil && g.stream != nil {
		keep(g, in, c)
		return
	}
	g.mu.Lock()
	g.plain = true
	g.mu.Unlock()
	g.Go(func(ctx context.Context) error {
		for {
			it, ok, err := receive(g, in)
			if !ok {
				return err
			}
			if err := s.Write(ctx, it.Value); err != nil {
				return err
			}
			it.ack.fire(written)
		}
	})
}
