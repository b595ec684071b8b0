package pipeline

import "context"

// Tee sends each item to n channels. It is acknowledged when it is in all of them; the slowest holds the others up. It panics
// if n is less than 1.
func Tee[T any](g *Group, in <-chan Item[T], n int) []<-chan Item[T] {
	if n < 1 {
		panic("pipeline: Tee needs at least one output")
	}
	outs, ends := make([]chan Item[T], n), make([]<-chan Item[T], n)
	for i := range outs {
		outs[i] = make(chan Item[T], depth)
		ends[i] = outs[i]
	}
	g.Go(func(context.Context) error {
		err := g.outcome(tee(g, in, outs))
		for _, out := range outs {
			close(out)
		}
		return err
	})
	return ends
}

func tee[T any](g *Group, in <-chan Item[T], outs []chan Item[T]) error {
	for {
		it, ok, err := receive(g, in)
		if !ok {
			return err
		}
		it.ack = it.ack.split(len(outs))
		for _, out := range outs {
			if err := send(g, out, it); err != nil {
				return err
			}
		}
	}
}
