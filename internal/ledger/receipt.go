package ledger

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/wal"
)

func (l *Ledger) acknowledged(watched uint64, from, through uint64) {
	switch {
	case watched == closed:
		l.Late.Add(1)
	case from < watched && watched <= through:
		l.wake()
	}
}

// Receipt is the acknowledgement of one message: 16 bytes for whoever has let the message go. The zero Receipt
// acknowledges nothing.
type Receipt struct {
	c *chunk
	i uint32
}

// Ack acknowledges the message, as Stream.Ack does.
func (r Receipt) Ack() {
	if r.c == nil {
		return
	}
	bit := uint64(1) << (r.i % 64)
	if r.c.acked[r.i/64].Or(bit)&bit != 0 {
		return
	}
	if w := r.c.ledger.watch.Load(); w != 0 {
		seq := r.c.base + uint64(r.i)
		r.c.ledger.acknowledged(w, seq, seq+1)
	}
}

// raise sets v to n, unless it is higher. It says whether it did.
func raise(v *atomic.Uint64, n uint64) bool {
	for {
		old := v.Load()
		if n <= old {
			return false
		}
		if v.CompareAndSwap(old, n) {
			return true
		}
	}
}

// Skip acknowledges the message without its checkpoint, as Stream.Skip does.
func (r Receipt) Skip() {
	if r.c != nil && r.c.ledger.Storing {
		bit := uint64(1) << (r.i % 64)
		if r.c.acked[r.i/64].Load()&bit != 0 {
			return
		}
		r.c.skipped[r.i/64].Or(bit) // first: who sees that it is acknowledged sees this
	}
	r.Ack()
}

// AckThrough acknowledges the message and all that were delivered before it, as Stream.AckThrough does.
func (r Receipt) AckThrough() {
	if r.c == nil {
		return
	}
	l, end := r.c.ledger, r.c.base+uint64(r.i)+1
	if l.Storing {
		raise(&l.stored, end)
	}
	if !raise(&l.through, end) {
		return
	}
	if w := l.watch.Load(); w != 0 {
		l.acknowledged(w, 0, end)
	}
}

// Backlog is what Stats says of the unacknowledged messages.
type Backlog struct {
	Delivered    uint64 // messages
	Unacked      uint64
	Confirmed    wal.LSN       // the highest reached mark
	Oldest       wal.LSN       // end of the transaction of the oldest unacknowledged message; 0: none, or not yet known
	OldestNumber uint64        // its number in the stream, from 0
	Age          time.Duration // since it was delivered
	Overtaken    bool          // later ones are acknowledged
}

// Look looks at the acknowledgements as they are now, from any goroutine.
func (l *Ledger) Look(now time.Time) Backlog {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := Backlog{Delivered: l.published, Confirmed: l.Confirmed}
	through := min(l.through.Load(), l.published)
	first := true
	for c, n := l.first, max(l.head, through); c != nil && n < l.published; c = c.next {
		for ; n < min(l.published, c.base+chunkLen); n++ {
			i := n - c.base
			if i%64 == 0 && n+64 <= l.published && !first {
				ones := bits.OnesCount64(c.acked[i/64].Load())
				b.Unacked += uint64(64 - ones)
				b.Overtaken = b.Overtaken || ones > 0
				n += 63
				continue
			}
			if c.isAcked(n) {
				b.Overtaken = b.Overtaken || !first
				continue
			}
			b.Unacked++
			if first {
				first = false
				b.OldestNumber = n
				b.Age = time.Duration(uint32(now.UnixMilli())-c.at[i]) * time.Millisecond
				for _, m := range l.marks.all() {
					if m.seq > n {
						b.Oldest = m.lsn
						break
					}
				}
			}
		}
	}
	return b
}

// Hold holds up the owner, for tests, until release is called.
func (l *Ledger) Hold() (release func()) {
	l.mu.Lock()
	return l.mu.Unlock
}

// Unacknowledged returns the numbers of the messages that were delivered, as of the last advance, and are not acknowledged.
func (l *Ledger) Unacknowledged() (numbers []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := max(l.head, l.through.Load())
	for c := l.first; c != nil; c = c.next {
		for ; n < min(l.published, c.base+chunkLen); n++ {
			if !c.isAcked(n) {
				numbers = append(numbers, int(n))
			}
		}
	}
	return numbers
}
