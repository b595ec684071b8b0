package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/kit"
)

// Checkpointer is a Sink that stores checkpoints beside the data. Give its Checkpoint to walchan.WithCheckpointFrom.
//
// Checkpoint returns what is stored; zero: nothing is. WriteCheckpoint takes the place of Write. It stores c together with the
// batch: both or neither. A zero c has nothing new, so that what is stored stays. The batch may be empty: then everything up to
// c was left out before the sink, and the slot cannot go on without c.
//
// The values must come in the stream's order, so there must be no Keyed before. A value that is no walchan.Message has the
// checkpoint of the message that it was made from. Where Expand makes several values of one message the last one has it alone,
// and the others have the zero one.
type Checkpointer[T any] interface {
	Checkpoint(ctx context.Context) (walchan.Checkpoint, error)
	WriteCheckpoint(ctx context.Context, batch []T, c walchan.Checkpoint) error
}

const (
	quiet   = time.Second           // without a write, until a checkpoint is stored by itself
	overdue = time.Minute           // without a checkpoint, until that is logged
	soon    = time.Millisecond      // before the first look for the items that precede a Progress
	later   = 50 * time.Millisecond // before the last ones
)

// storing is what a group knows of its sinks' checkpoints. Group.mu guards plain, keepers and told.
type storing struct {
	plain    bool                               // there is a sink that stores none
	keepers  []*keeping                         // of the sinks that do
	told     walchan.Checkpoint                 // of which the stream was told that it is stored
	progress atomic.Pointer[walchan.Checkpoint] // of the last walchan.Progress
	alarm    alarm
}

// pass takes a Progress out of the flow. It is skipped, so that everything before it is acknowledged once the stages have dealt
// with that. The keepers then store its checkpoint.
func (g *Group) pass(m walchan.Message) {
	c := m.Checkpoint()
	g.progress.Store(&c)
	m.Receipt().Skip()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.keepers {
		k.look()
	}
}

// checkSinks fails if the stream's checkpoints are stored by nobody.
func (g *Group) checkSinks() {
	g.mu.Lock()
	none := g.plain && len(g.keepers) == 0
	g.mu.Unlock()
	if none && g.hasCheckpoints() {
		g.Go(func(context.Context) error {
			return &walchan.Error{Kind: walchan.ErrCheckpoint, What: "the stream has checkpoints, and the sink does not store them",
				Advice: "leave out WithCheckpoint, or make the sink a pipeline.Checkpointer"}
		})
	}
}

func (g *Group) hasCheckpoints() bool {
	if g.stream == nil {
		return false
	}
	_, err := g.stream.Checkpoint().Value()
	return err == nil
}

// report tells the stream what is stored by all sinks that store checkpoints, as far as everything before is acknowledged.
func (g *Group) report() {
	c := g.stream.Checkpoint()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.keepers {
		s := k.last()
		n, same := c.Compare(s)
		switch {
		case !same:
			return // it is still that of the cluster before an upgrade
		case n > 0:
			c = s
		}
	}
	if c != g.told {
		g.told = c
		g.stream.Stored(c)
		g.alarm.reset()
	}
}

// keeping is what the group knows of a sink that stores checkpoints.
type keeping struct {
	wake chan struct{} // 1: there may be something to store

	mu     sync.Mutex
	stored walchan.Checkpoint
}

func (k *keeping) look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeping) last() walchan.Checkpoint {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stored
}

func (k *keeping) set(c walchan.Checkpoint) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stored = c
}

// keeper is Into with a Checkpointer.
//
// The checkpoint of a batch is that of its last value. Where everything is left out before the sink there are no batches; then the
// stream tells up to where all is acknowledged (walchan.Stream.Checkpoint), and that is stored by itself.
type keeper[T any] struct {
	*keeping
	group      *Group
	sink       Checkpointer[T]
	checkpoint func(T) walchan.Checkpoint

	timer    *time.Timer
	pause    time.Duration // of the next look, while a Progress is waited for
	reported time.Time
}

// keep is Into with a Checkpointer.
func keep[T any](g *Group, in <-chan Item[[]T], s Checkpointer[T]) {
	k := &keeper[T]{keeping: &keeping{wake: make(chan struct{}, 1)}, group: g, sink: s, checkpoint: checkpointOf[T]()}
	if k.checkpoint == nil {
		panic(fmt.Sprintf("pipeline: Into: the sink stores checkpoints, and a %T has none: it needs a method Checkpoint() walchan.Checkpoint", *new(T)))
	}
	g.mu.Lock()
	g.keepers = append(g.keepers, k.keeping)
	g.alarm.start(g.stream)
	g.mu.Unlock()
	g.Go(func(ctx context.Context) error { return k.run(ctx, in) })
}

func (k *keeper[T]) run(ctx context.Context, in <-chan Item[[]T]) error {
	if err := k.begin(ctx); err != nil {
		return err
	}
	k.timer = time.NewTimer(quiet)
	defer k.timer.Stop()
	k.look() // a Progress may have come before
	for {
		if k.group.void.Load() {
			return k.group.failure()
		}
		var err error
		select {
		case it, ok := <-in:
			switch {
			case ok:
				err = k.write(ctx, it)
			case k.group.void.Load():
				return k.group.failure()
			default:
				return k.end(ctx)
			}
		case <-k.wake:
			k.pause = soon
			err = k.catchUp(ctx)
		case <-k.timer.C:
			err = k.catchUp(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// begin makes sure that the stream goes on where the sink is. It may begin earlier where the stream has several sinks.
func (k *keeper[T]) begin(ctx context.Context) error {
	if !k.group.hasCheckpoints() {
		return &walchan.Error{Kind: walchan.ErrCheckpoint, What: "the sink stores checkpoints, and the stream has none",
			Advice: "give Subscribe the option WithCheckpointFrom(sink.Checkpoint)"}
	}
	c, err := k.sink.Checkpoint(ctx)
	if err != nil {
		return err
	}
	began, anew := kit.Began(k.group.stream)
	given := began.(walchan.Checkpoint)
	n, same := given.Compare(c)
	switch {
	case anew: // the next one replaces it
	case given == c:
		k.set(c)
	case same && n < 0 && !given.IsZero():
		k.set(c)
	default:
		return &walchan.Error{Kind: walchan.ErrCheckpoint, What: fmt.Sprintf("the stream began after %s, and the sink has stored %s", describePlace(given), describePlace(c)),
			Advice: "give Subscribe the option WithCheckpointFrom(sink.Checkpoint)"}
	}
	return nil
}

func describePlace(c walchan.Checkpoint) string {
	if c.IsZero() {
		return "no checkpoint"
	}
	return fmt.Sprintf("the checkpoint at %s of slot %q", c.Position(), c.Source().Slot)
}

// write writes a batch. A batch that is delivered again does not take back what is stored.
func (k *keeper[T]) write(ctx context.Context, it Item[[]T]) error {
	c, f := newest(it.Value, k.checkpoint), stored
	if c.IsZero() {
		f = written
	} else if n, same := c.Compare(k.last()); same && n < 0 {
		c = walchan.Checkpoint{}
	}
	if err := k.store(ctx, it.Value, c); err != nil {
		return err
	}
	it.ack.fire(f)
	if time.Since(k.reported) >= quiet {
		k.report()
	}
	k.rest()
	return nil
}

func (k *keeper[T]) store(ctx context.Context, batch []T, c walchan.Checkpoint) error {
	if err := k.sink.WriteCheckpoint(ctx, batch, c); err != nil {
		return err
	}
	if !c.IsZero() {
		k.set(c)
	}
	return nil
}

func (k *keeper[T]) report() {
	k.group.report()
	k.reported = time.Now()
}

// catchUp stores the place up to which everything is acknowledged, if that is ahead of what is stored.
func (k *keeper[T]) catchUp(ctx context.Context) error {
	if k.waits() {
		k.settle(ctx)
	}
	if c := k.group.stream.Checkpoint(); isAhead(c, k.last()) {
		if err := k.store(ctx, nil, c); err != nil {
			return err
		}
	}
	k.report()
	k.rest()
	return nil
}

// waits says whether a Progress has come that is not stored. A server that is stopping, and a COMMIT, may wait for it.
func (k *keeper[T]) waits() bool {
	p := k.group.progress.Load()
	return p != nil && isAhead(*p, k.last())
}

// settle has the stream take in the acknowledgements that were made.
func (k *keeper[T]) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	_ = k.group.stream.Flush(ctx) // if it fails, less is stored
}

// rest sets when to look next. Nothing tells when the last item before a Progress is left out.
func (k *keeper[T]) rest() {
	if k.waits() {
		k.timer.Reset(max(k.pause, soon))
		k.pause = min(2*k.pause, later)
		return
	}
	k.timer.Reset(quiet)
}

// end stores what was left out last.
func (k *keeper[T]) end(ctx context.Context) error {
	k.settle(ctx)
	return k.catchUp(ctx)
}

// isAhead says whether c is to replace d. They are of one stream, unless the stream is of a cluster that was upgraded.
func isAhead(c, d walchan.Checkpoint) bool {
	n, same := c.Compare(d)
	return n > 0 || !same
}

// newest returns the checkpoint of the last value that has one.
func newest[T any](batch []T, of func(T) walchan.Checkpoint) (c walchan.Checkpoint) {
	for _, v := range slices.Backward(batch) {
		if c = of(v); !c.IsZero() {
			break
		}
	}
	return c
}

// checkpointOf returns how to get the checkpoint of a T; nil if there is no way.
func checkpointOf[T any]() func(T) walchan.Checkpoint {
	var f any
	switch any(*new(T)).(type) {
	case walchan.Message:
		f = walchan.Message.Checkpoint
	case []walchan.Message:
		f = func(v []walchan.Message) walchan.Checkpoint { return newest(v, walchan.Message.Checkpoint) }
	case interface{ Checkpoint() walchan.Checkpoint }:
		return func(v T) walchan.Checkpoint {
			return any(v).(interface{ Checkpoint() walchan.Checkpoint }).Checkpoint()
		}
	}
	of, _ := f.(func(T) walchan.Checkpoint)
	return of
}

// alarm says that nothing is stored while messages wait for it. The slot then keeps WAL.
type alarm struct {
	stream *walchan.Stream
	mu     sync.Mutex
	timer  *time.Timer
	since  time.Time
	next   time.Duration
}

func (a *alarm) start(s *walchan.Stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stream != nil {
		return
	}
	a.stream, a.since, a.next = s, time.Now(), overdue
	a.timer = time.AfterFunc(overdue, a.ring)
}

func (a *alarm) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stream != nil {
		a.since, a.next = time.Now(), overdue
		a.timer.Reset(overdue)
	}
}

func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stream != nil {
		a.timer.Stop()
		a.stream = nil
	}
}

func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stream == nil {
		return
	}
	st := a.stream.Stats()
	if time.Since(a.since) < overdue || st.OldestAge < overdue { // there is nothing to store
		a.timer.Reset(overdue)
		return
	}
	slog.Warn("nothing was stored for a while, and the slot keeps WAL: a stage or a sink holds what came",
		"slot", a.stream.Source().Slot, "since", a.since, "unacknowledged", st.Unacked, "lag_bytes", st.LagBytes)
	a.next *= 2
	a.timer.Reset(a.next)
}
