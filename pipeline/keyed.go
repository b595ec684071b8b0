package pipeline

import (
	"context"
	"sync"
)

// Keyed runs f on n items at once, and on the items of one key one after the other, in order. It sends the results in the order
// in which they are ready, which is the items' order as far as the key goes.
//
// An item that key calls a barrier is dealt with alone: when all before it are done, and before any after it. ByKey is the key
// of messages. It panics if n is less than 1.
func Keyed[A, B any](g *Group, in <-chan Item[A], n int, key func(A) (k uint64, barrier bool), f func(context.Context, A) (B, error)) <-chan Item[B] {
	if n < 1 {
		panic("pipeline: Keyed needs at least one lane")
	}
	out := make(chan Item[B], depth)
	lanes := make([]chan turn[A], n)
	arrived := make(chan struct{}, n)
	var running sync.WaitGroup
	running.Add(n + 1)
	for i := range lanes {
		lanes[i] = make(chan turn[A], depth)
		g.Go(func(context.Context) error {
			defer running.Done()
			return g.outcome(lane(g, lanes[i], arrived, f, out))
		})
	}
	g.Go(func(context.Context) error {
		defer running.Done()
		err := g.outcome(dispatch(g, in, lanes, key, arrived, f, out))
		for _, l := range lanes {
			close(l)
		}
		return err
	})
	g.Go(func(context.Context) error {
		running.Wait()
		close(out)
		return nil
	})
	return out
}

// turn is what a lane is given: an item, or the question to say when it comes there.
type turn[T any] struct {
	item    Item[T]
	barrier bool
}

func lane[A, B any](g *Group, in <-chan turn[A], arrived chan<- struct{}, f func(context.Context, A) (B, error), out chan<- Item[B]) error {
	for {
		t, ok, err := receive(g, in)
		if !ok {
			return err
		}
		if t.barrier {
			arrived <- struct{}{} // has room for all lanes
			continue
		}
		if err := apply(g, t.item, f, out); err != nil {
			return err
		}
	}
}

func dispatch[A, B any](g *Group, in <-chan Item[A], lanes []chan turn[A], key func(A) (uint64, bool), arrived <-chan struct{}, f func(context.Context, A) (B, error), out chan<- Item[B]) error {
	for {
		it, ok, err := receive(g, in)
		if !ok {
			return err
		}
		k, barrier := key(it.Value)
		if !barrier {
			if err := send(g, lanes[k%uint64(len(lanes))], turn[A]{item: it}); err != nil {
				return err
			}
			continue
		}
		for _, l := range lanes {
			if err := send(g, l, turn[A]{barrier: true}); err != nil {
				return err
			}
		}
		for range lanes {
			if _, ok, err := receive(g, arrived); !ok {
				return err
			}
		}
		if err := apply(g, it, f, out); err != nil {
			return err
		}
	}
}
