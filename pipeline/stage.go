package pipeline

import (
	"context"
	"errors"
)

// ErrSkip, returned by the function of Map, Expand or Keyed, drops the item (Item.Skip).
var ErrSkip = errors.New("pipeline: skip")

// depth is how many items a stage may be ahead of the next one. More makes no pipeline faster, and holds messages back.
const depth = 64

// Map sends f of each item on.
func Map[A, B any](g *Group, in <-chan Item[A], f func(context.Context, A) (B, error)) <-chan Item[B] {
	return stage(g, depth, func(out chan<- Item[B]) error {
		for {
			it, ok, err := receive(g, in)
			if !ok {
				return err
			}
			if err := apply(g, it, f, out); err != nil {
				return err
			}
		}
	})
}

// Expand sends each of the values on that f makes of an item. One without values is skipped.
func Expand[A, B any](g *Group, in <-chan Item[A], f func(context.Context, A) ([]B, error)) <-chan Item[B] {
	return stage(g, depth, func(out chan<- Item[B]) error {
		for {
			it, ok, err := receive(g, in)
			if !ok {
				return err
			}
			vs, err := f(g.ctx, it.Value)
			if errors.Is(err, ErrSkip) {
				vs = nil
			} else if err != nil {
				return err
			}
			part := it.ack.split(len(vs))
			for _, v := range vs {
				if err := send(g, out, Item[B]{v, part}); err != nil {
					return err
				}
			}
		}
	})
}

// Filter sends the items on that are to be kept, and skips the others.
func Filter[T any](g *Group, in <-chan Item[T], keep func(T) bool) <-chan Item[T] {
	return Map(g, in, func(_ context.Context, v T) (T, error) {
		if keep(v) {
			return v, nil
		}
		return v, ErrSkip
	})
}

// apply sends f of one item on.
func apply[A, B any](g *Group, it Item[A], f func(context.Context, A) (B, error), out chan<- Item[B]) error {
	v, err := f(g.ctx, it.Value)
	switch {
	case err == nil:
		return send(g, out, Item[B]{v, it.ack})
	case errors.Is(err, ErrSkip):
		it.Skip()
		return nil
	}
	return err
}

// stage runs f in the group, and closes the channel that f sends to, which holds n. It is closed after the group knows of an
// error: what follows does not take a failure for the end.
func stage[T any](g *Group, n int, f func(out chan<- T) error) <-chan T {
	out := make(chan T, n)
	g.Go(func(context.Context) error {
		defer close(out)
		return g.outcome(f(out))
	})
	return out
}

// receive takes the next item. ok is false at the end of in, and with err when the group has failed: then in may have been
// closed by the stage that has.
//
// Here and below the channel is tried alone first: a select locks the context's channel too, and that is the same one for
// all stages.
func receive[T any](g *Group, in <-chan T) (v T, ok bool, err error) {
	if g.void.Load() {
		return v, false, g.failure()
	}
	select {
	case v, ok = <-in:
	default:
		select {
		case v, ok = <-in:
		case <-g.ctx.Done():
			return v, false, context.Cause(g.ctx)
		}
	}
	if !ok && g.void.Load() {
		return v, false, g.failure()
	}
	return v, ok, nil
}

// next is receive for a source, which also ends when the group is to stop.
func next[T any](g *Group, in <-chan T) (v T, ok bool) {
	if !g.halted.Load() && !g.void.Load() {
		select {
		case v, ok = <-in:
			return v, ok
		default:
		}
		select {
		case v, ok = <-in:
			return v, ok
		case <-g.halt.Done():
		case <-g.ctx.Done():
		}
	}
	return v, false
}

func send[T any](g *Group, out chan<- T, v T) error {
	select {
	case out <- v:
		return nil
	default:
	}
	select {
	case out <- v:
		return nil
	case <-g.ctx.Done():
		return context.Cause(g.ctx)
	}
}
