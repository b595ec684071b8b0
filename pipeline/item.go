package pipeline

import (
	"sync/atomic"

	"github.com/walchan/walchan"
)

// Item is a value and the acknowledgement of what it was made from. One stage owns it at a time: it sends it on, or what it
// makes of it, or calls Ack, and does that exactly once.
type Item[T any] struct {
	Value T
	ack   ack
}

// Ack says that the item is dealt with, and of a stream with checkpoints that the checkpoint of its message is stored. A message
// is acknowledged with the last of the items that were made from it. Once the group has failed it does nothing.
func (it Item[T]) Ack() { it.ack.fire(stored) }

// Skip says that nothing of the item will be stored (walchan.Stream.Skip).
func (it Item[T]) Skip() { it.ack.fire(skipped) }

// With hands the acknowledgement of an item on to another value.
func With[T, U any](it Item[T], v U) Item[U] { return Item[U]{v, it.ack} }

// Split returns an item for each of vs. What it was made from is acknowledged when all of them are. If there are none it is
// skipped at once.
func Split[T, U any](it Item[T], vs []U) []Item[U] {
	part := it.ack.split(len(vs))
	if len(vs) == 0 {
		return nil
	}
	items := make([]Item[U], len(vs))
	for i, v := range vs {
		items[i] = Item[U]{v, part}
	}
	return items
}

// Join returns one item with the acknowledgements of all items.
func Join[T, U any](items []Item[T], v U) Item[U] {
	acks := make([]ack, len(items))
	for i := range items {
		acks[i] = items[i].ack
	}
	return Item[U]{v, join(acks)}
}

// ack is the acknowledgement that an item carries. The zero ack has nothing to acknowledge.
type ack struct {
	receipt walchan.Receipt // where node is the group's root
	node    *node
}

// fate is what has become of an item. That of a message is the highest of its parts: it counts as stored only if nothing of
// it was skipped, because one of several sinks that store checkpoints may have skipped it.
type fate uint32

const (
	written fate = iota // in a sink that stores no checkpoints
	stored              // and with it the checkpoint of its message, or of a later one
	skipped             // left out, or refused
)

// node is where items were split or joined.
type node struct {
	group *Group
	left  atomic.Int32  // missing acknowledgements
	fate  atomic.Uint32 // the highest one so far
	up    []ack         // acknowledged then
	one   [1]ack        // room for up of a split
}

func (a ack) fire(f fate) {
	n := a.node
	switch {
	case n == nil || n.group.void.Load():
	case n == &n.group.root && f == stored:
		a.receipt.Ack()
	case n == &n.group.root:
		a.receipt.Skip()
	default:
		n.fire(f)
	}
}

func (n *node) fire(f fate) {
	for old := n.fate.Load(); old < uint32(f) && !n.fate.CompareAndSwap(old, uint32(f)); {
		old = n.fate.Load()
	}
	if n.left.Add(-1) > 0 {
		return
	}
	f = fate(n.fate.Load())
	for _, up := range n.up {
		up.fire(f)
	}
}

// split returns the acknowledgement of each of the parts that a's item is cut into.
func (a ack) split(parts int) ack {
	switch {
	case parts == 0:
		a.fire(skipped)
		return ack{}
	case parts == 1 || a.node == nil:
		return a
	}
	n := &node{group: a.node.group, one: [1]ack{a}}
	n.up = n.one[:]
	n.left.Store(int32(parts))
	return ack{node: n}
}

// join returns one acknowledgement for all of acks, which it keeps.
func join(acks []ack) ack {
	for _, a := range acks {
		if a.node != nil {
			n := &node{group: a.node.group, up: acks}
			n.left.Store(1)
			return ack{node: n}
		}
	}
	return ack{}
}
