package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/walchan/walchan"
)

// Limit says when a batch is complete: when the first of these is reached.
type Limit struct {
	Items int // default 1000

	// Bytes counts string, []byte, json.RawMessage, walchan.Message (its Size), []walchan.Message and whatever has a method
	// Size() int. 0: no limit. Batch panics if it cannot count.
	Bytes int

	// Wait is how long the first item of a batch waits for more. Meanwhile it is not acknowledged. 0: no longer than there
	// are items at hand, so that batches are as large as the sink is slow.
	Wait time.Duration
}

// Batch sends items on in batches. A batch is acknowledged as a whole. What comes while the next stage is busy joins the batch
// that waits for it, up to the limit. The last one, at the end of in, goes at once.
func Batch[T any](g *Group, in <-chan Item[T], l Limit) <-chan Item[[]T] {
	if l.Items <= 0 {
		l.Items = 1000
	}
	size := sizeOf[T]()
	if l.Bytes > 0 && size == nil {
		panic(fmt.Sprintf("pipeline: Limit.Bytes: %T has no Size", *new(T)))
	}
	return stage(g, 0, func(out chan<- Item[[]T]) error {
		b := batcher[T]{group: g, limit: l, size: size, timer: time.NewTimer(time.Hour)}
		defer b.timer.Stop()
		return b.run(in, out)
	})
}

type batcher[T any] struct {
	group *Group
	limit Limit
	size  func(T) int
	timer *time.Timer // of Limit.Wait

	values []T
	bytes  int
	node   *node // of the batch; up is its items'
	due    bool  // the batch has waited long enough
}

func (b *batcher[T]) run(in <-chan Item[T], out chan<- Item[[]T]) error {
	for {
		switch {
		case len(b.values) == 0:
			it, ok, err := receive(b.group, in)
			if !ok {
				return err
			}
			b.begin(it)
		case b.full():
			if err := send(b.group, out, b.item()); err != nil {
				return err
			}
			b.values = nil
		default:
			ok, err := b.grow(in, out)
			if err != nil {
				return err
			}
			if !ok && b.group.void.Load() {
				return b.group.failure()
			} else if !ok {
				return send(b.group, out, b.item())
			}
		}
	}
}

// grow adds an item, or sends the batch if it is due. ok is false at the end of in.
func (b *batcher[T]) grow(in <-chan Item[T], out chan<- Item[[]T]) (ok bool, err error) {
	if b.group.void.Load() {
		return false, b.group.failure()
	}
	// What is at hand comes first, but with a look at the clock now and then.
	if (!b.due || b.limit.Wait <= 0) && len(b.values)%64 != 0 {
		select {
		case it, ok := <-in:
			b.add(it, ok)
			return ok, nil
		default:
		}
	}
	ready, late := out, b.timer.C
	if b.due {
		late = nil
	} else {
		ready = nil
	}
	select {
	case it, ok := <-in:
		b.add(it, ok)
		return ok, nil
	case ready <- b.item():
		b.values = nil
	case <-late:
		b.due = true
	case <-b.group.ctx.Done():
		return false, context.Cause(b.group.ctx)
	}
	return true, nil
}

func (b *batcher[T]) begin(it Item[T]) {
	n := 1
	if b.node != nil {
		n = len(b.node.up) // the next batch will be like the last one
	}
	b.values, b.bytes = make([]T, 0, n), 0
	b.node = &node{group: b.group, up: make([]ack, 0, n)}
	b.node.left.Store(1)
	b.due = b.limit.Wait <= 0
	if !b.due {
		b.timer.Reset(b.limit.Wait)
	}
	b.add(it, true)
}

func (b *batcher[T]) add(it Item[T], ok bool) {
	if !ok {
		return
	}
	b.values = append(b.values, it.Value)
	b.node.up = append(b.node.up, it.ack)
	if b.limit.Bytes > 0 {
		b.bytes += b.size(it.Value)
	}
}

func (b *batcher[T]) full() bool {
	return len(b.values) >= b.limit.Items || b.limit.Bytes > 0 && b.bytes >= b.limit.Bytes
}

func (b *batcher[T]) item() Item[[]T] { return Item[[]T]{b.values, ack{node: b.node}} }

// sizeOf returns how to count the bytes of a T; nil if there is no way. A T that is made an interface would be copied to the
// heap, so the usual ones are not.
func sizeOf[T any]() func(T) int {
	var f any
	switch any(*new(T)).(type) {
	case string:
		f = func(v string) int { return len(v) }
	case []byte:
		f = func(v []byte) int { return len(v) }
	case json.RawMessage:
		f = func(v json.RawMessage) int { return len(v) }
	case walchan.Message:
		f = walchan.Message.Size
	case []walchan.Message:
		f = func(v []walchan.Message) (n int) {
			for i := range v {
				n += v[i].Size()
			}
			return n
		}
	case interface{ Size() int }:
		return func(v T) int { return any(v).(interface{ Size() int }).Size() }
	}
	size, _ := f.(func(T) int)
	return size
}
