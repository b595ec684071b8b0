// Package pipeline runs stages over channels: parallel work, batches and sinks, that carry each message's acknowledgement
// along, and fire it once, when the last sink has what was made of it.
//
//	g := pipeline.New(ctx, stream, 30*time.Second)
//	docs := pipeline.Keyed(g, g.Source(), 8, pipeline.ByKey, toDoc)
//	batches := pipeline.Batch(g, docs, pipeline.Limit{Items: 500, Wait: time.Second})
//	pipeline.Into(g, batches, sink)
//	return g.Wait()
//
// # Stages
//
// A stage takes items from a channel, has a goroutine or several in a Group, and returns the channel of what it makes, which
// it closes. It holds no more than a few items, so that a slow stage slows those before it, down to the stream. Source
// and Plain begin a pipeline; Map, Filter, Expand, Keyed, Batch, Transactions, Tee and Throttle go on; Into ends
// it. The channels are ordinary ones: a stage of one's own is a function given to Group.Go that receives Items, sends what
// With, Split and Join make of them, and closes its channel; and the last channel may as well be ranged over, with a call
// of Item.Ack.
//
// # Stopping
//
// Cancelling the context given to New stops the sources alone: what is in flight runs on into the sinks, and Wait returns
// nil. The stages have a context of their own. It ends at the first error, and when the grace is over; from then on nothing
// is acknowledged, every stage returns, and the stream is closed. Wait returns the error that was first. What was not
// acknowledged comes again in the next process.
//
// The stream may have been given the same context, and then stops with it: it takes acknowledgements for as long as its
// drain timeout (walchan.WithDrainTimeout), which then should be no less than the grace.
//
// # Sinks
//
// A Sink writes batches, and returns when they are durable. Retry, Timeout, Skip, DeadLetter and Count are put around it:
//
//	counted := pipeline.Count(pipeline.Timeout(sink, 10*time.Second))
//	safe := pipeline.Skip(pipeline.Retry(counted, pipeline.RetryPolicy{}), nil)
//	pipeline.Into(g, batches, safe)
//
// A sink that stores checkpoints beside the data (Checkpointer) goes with a stream that has them:
//
//	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("orders"), walchan.WithPublication("orders"),
//		walchan.WithCheckpointFrom(sink.Checkpoint))
package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walchan/walchan"
)

// ErrGrace is what Wait returns when the grace was over and items were still in flight. They come again in the next process.
var ErrGrace = errors.New("pipeline: the grace is over, and items are in flight: they come again")

// Group is the stages of one pipeline, and the stream that feeds it.
type Group struct {
	stream *walchan.Stream // nil: there is none
	halt   context.Context // ends the sources: the user's
	grace  time.Duration

	stages *errgroup.Group
	ctx    context.Context // ends the stages
	expire context.CancelCauseFunc
	leave  func() bool // takes back the AfterFunc that watches halt

	root    node        // of items that a stream's message is acknowledged with
	halted  atomic.Bool // halt has ended
	void    atomic.Bool // nothing is acknowledged any more
	sourced atomic.Bool // Source was called

	mu    sync.Mutex
	timer *time.Timer // of the grace, once it runs
	over  bool        // Wait was called, and has waited
	storing
}

// New returns a group. Cancelling ctx stops its sources; grace is how long the stages may go on after that, and after the
// end of the stream. 0 ends them at once.
//
// The stream now belongs to the group, which closes it: nobody else must receive from it. It may be nil, for stages over
// other channels (Plain).
func New(ctx context.Context, stream *walchan.Stream, grace time.Duration) *Group {
	g := &Group{stream: stream, halt: ctx, grace: grace}
	g.root.group = g
	life, expire := context.WithCancelCause(context.WithoutCancel(ctx))
	g.expire = expire
	g.stages, g.ctx = errgroup.WithContext(life)
	g.leave = context.AfterFunc(ctx, func() {
		g.halted.Store(true)
		g.startGrace()
	})
	if stream != nil {
		// A stage may take its time to return. The stream's slot, which another process may wait for, is let go before.
		context.AfterFunc(g.ctx, func() { stream.Close() })
	}
	return g
}

// Source returns the stream's messages as items, apart from walchan.Progress, which is for sinks that store checkpoints
// (Checkpointer) alone. It is closed when ctx or the stream ends. The second call panics, and so does one of a group without a
// stream.
func (g *Group) Source() <-chan Item[walchan.Message] {
	if g.stream == nil {
		panic("pipeline: Source of a Group without a stream")
	}
	if g.sourced.Swap(true) {
		panic("pipeline: Source was called twice")
	}
	return stage(g, depth, func(out chan<- Item[walchan.Message]) error {
		defer g.startGrace() // what the stream has delivered before an error may be the last copy
		for {
			m, ok := next(g, g.stream.C())
			if !ok {
				return nil
			}
			if m.Kind == walchan.Progress {
				g.pass(m)
				continue
			}
			if err := send(g, out, Item[walchan.Message]{m, ack{m.Receipt(), &g.root}}); err != nil {
				return err
			}
		}
	})
}

// Plain makes items of any channel's values; there is nothing to acknowledge. It is closed when ctx ends or in is closed.
func Plain[T any](g *Group, in <-chan T) <-chan Item[T] {
	return stage(g, depth, func(out chan<- Item[T]) error {
		for {
			v, ok := next(g, in)
			if !ok {
				return nil
			}
			if err := send(g, out, Item[T]{Value: v}); err != nil {
				return err
			}
		}
	})
}

// Go runs a stage of one's own. Its context ends at the first error of the group and when the grace is over; f returns then.
// An error stops the group. A panic is not caught.
func (g *Group) Go(f func(context.Context) error) {
	g.stages.Go(func() error { return g.outcome(f(g.ctx)) })
}

// Wait returns when all stages have, and the stream is closed. The error is the first one of a stage, or the stream's own, or
// ErrGrace, or a *walchan.UnconfirmedError, which costs repeats.
func (g *Group) Wait() error {
	g.checkSinks()
	err := g.stages.Wait()
	g.alarm.stop()
	g.leave()
	g.expire(nil)
	g.endGrace()
	if g.stream == nil {
		return err
	}
	closeErr := g.stream.Close()
	if streamErr := g.stream.Err(); streamErr != nil && (err == nil || err == ErrGrace) {
		return streamErr
	}
	if err == nil {
		err = closeErr
	}
	return err
}

// outcome makes a stage's error the group's: nothing is acknowledged from here on. An error that only follows from the end of
// the context is replaced by its cause.
func (g *Group) outcome(err error) error {
	if err == nil {
		return nil
	}
	g.void.Store(true)
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	return err
}

// failure returns why the group has failed, once it has: the stage that did may be about to return.
func (g *Group) failure() error {
	<-g.ctx.Done()
	return context.Cause(g.ctx)
}

// startGrace has the stages end after the grace.
func (g *Group) startGrace() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer == nil && !g.over {
		g.timer = time.AfterFunc(g.grace, func() {
			g.void.Store(true)
			g.expire(ErrGrace)
		})
	}
}

func (g *Group) endGrace() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if g.timer != nil {
		g.timer.Stop()
	}
}
