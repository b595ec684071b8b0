package pipeline

import (
	"context"
	"time"
)

// Throttle lets perSecond items pass in a second, and after a pause up to burst of them (at least 1) at once. It panics if
// perSecond is not positive.
func Throttle[T any](g *Group, in <-chan Item[T], perSecond float64, burst int) <-chan Item[T] {
	if perSecond <= 0 {
		panic("pipeline: Throttle needs a positive rate")
	}
	each := time.Duration(float64(time.Second) / perSecond)
	ahead := each * time.Duration(max(burst, 1)-1)
	return stage(g, 0, func(out chan<- Item[T]) error {
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		var turn time.Time // of the next item, if there were no burst
		for {
			it, ok, err := receive(g, in)
			if !ok {
				return err
			}
			now := time.Now()
			if turn.Before(now.Add(-ahead)) {
				turn = now.Add(-ahead)
			}
			if wait := turn.Sub(now); wait > 0 {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-g.ctx.Done():
					return context.Cause(g.ctx)
				}
			}
			turn = turn.Add(each)
			if err := send(g, out, it); err != nil {
				return err
			}
		}
	})
}
