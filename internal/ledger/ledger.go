// Package ledger knows what a stream has delivered, what is acknowledged, and what may therefore be confirmed. It knows nothing of the
// protocol. A source tells it two things in the order of the stream: here is a message, and here is a mark, which says
// "once every message before this is acknowledged, this LSN may be confirmed".
//
// Messages are numbered from 0. Whether one is acknowledged is a bit in a chunk; a Receipt is a chunk and the place of the
// bit, so that acknowledging is one atomic operation and takes no lock. Chunks form a list from the oldest unacknowledged
// message to the newest one. Older chunks are garbage.
//
// The owner of the stream is the only one to deliver, mark and advance. While it sleeps it watches one unacknowledged
// message, whose acknowledgement wakes it: the newest one before the next mark (within its chunk), since no mark can be
// reached without it, and a consumer that acknowledges in order wakes the owner once a transaction, not once a message.
package ledger

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/wal"
)

const (
	chunkLen = 1024
	closed   = ^uint64(0) // value of watch once nothing is confirmed any more
)

type chunk struct {
	ledger  *Ledger
	base    uint64 // number of the first message
	next    *chunk // guarded by ledger.mu
	acked   [chunkLen / 64]atomic.Uint64
	skipped [chunkLen / 64]atomic.Uint64 // of these, for a ledger that is storing
	at      [chunkLen]uint32             // when each was delivered: milliseconds on the ledger's clock, which may wrap
}

// mark says that lsn may be confirmed once all messages below seq are acknowledged.
type mark struct {
	seq uint64
	lsn wal.LSN
}

// Ledger is that of one stream.
type Ledger struct {
	acks

	_ [64]byte // a cache line: what one goroutine writes for every message is none of the other's business

	// The owner's own.
	tail  *chunk
	seq   uint64 // number of the next message
	clock uint32 // milliseconds, for chunk.at

	mu        sync.Mutex // the owner's writes against Stats's reads; never held by Ack
	head      uint64     // the oldest message that is not acknowledged; all below are
	first     *chunk     // the chunk of head
	published uint64     // seq as of the last advance
	marks     fifo[mark] // not yet reached, or not yet stored, ascending
	Confirmed wal.LSN    // the highest reached mark
	stores
}

// acks is what Ack touches, from any goroutine.
type acks struct {
	through atomic.Uint64 // all messages below are acknowledged (AckThrough)
	watch   atomic.Uint64 // number of the watched message plus 1; 0: none
	stored  atomic.Uint64 // number of the newest message given to AckThrough, plus 1
	Late    atomic.Uint64 // acknowledgements after the end
	wake    func()        // called by the acknowledgement of the watched message; must not block
	Storing bool          // a mark counts once the message before it, or a later one, was acknowledged by Ack and not by Skip
}

// stores is what a ledger with checkpoints knows besides: what those of the marks say, the one of the highest mark that is reached, stored or
// not, and up to where the consumer says that it has stored one.
type stores struct {
	points  fifo[resume.Place]
	reached resume.Place
	behind  uint64 // number of the newest message below head that was not skipped, plus 1
	saved   wal.LSN
}

// New returns a ledger. confirmed is what was confirmed before. wake is called by the acknowledgement that the owner waits for.
func New(confirmed wal.LSN, wake func()) *Ledger {
	l := &Ledger{acks: acks{wake: wake}, Confirmed: confirmed}
	l.tail = &chunk{ledger: l}
	l.first = l.tail
	return l
}

// Next returns the receipt of the next message, which becomes one with Delivered. Until then it can be asked for again.
func (l *Ledger) Next() Receipt {
	i := l.seq - l.tail.base
	if i == chunkLen {
		c := &chunk{ledger: l, base: l.seq}
		l.mu.Lock()
		l.tail.next = c
		l.mu.Unlock()
		l.tail, i = c, 0
	}
	l.tail.at[i] = l.clock
	return Receipt{l.tail, uint32(i)}
}

// Delivered counts the message that got the receipt of Next.
func (l *Ledger) Delivered() { l.seq++ }

// MarkAt is Mark for a checkpoint.
func (l *Ledger) MarkAt(p *resume.Place) { l.MarkBefore(p.Through, p) }

// MarkBefore is MarkAt, but what may be confirmed is lsn, which lies before the end of what p contains.
func (l *Ledger) MarkBefore(lsn wal.LSN, p *resume.Place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mark(lsn) {
		return
	}
	if l.points.len() == l.marks.len() {
		*l.points.last() = *p
	} else {
		l.points.push(*p)
	}
}

// Mark says that lsn may be confirmed once everything delivered so far is acknowledged.
func (l *Ledger) Mark(lsn wal.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark(lsn)
}

// mark makes a mark, or moves the last one on, and says whether the last mark is this one now. Positions never go back.
func (l *Ledger) mark(lsn wal.LSN) bool {
	if l.marks.len() > 0 {
		if last := l.marks.last(); lsn <= last.lsn {
			return *last == mark{l.seq, lsn}
		} else if last.seq == l.seq {
			last.lsn = lsn
			return true
		}
	}
	if lsn <= l.Confirmed {
		return false
	}
	l.marks.push(mark{l.seq, lsn})
	return true
}

// Advance takes in the acknowledgements and returns what may be confirmed.
func (l *Ledger) Advance() wal.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = l.seq
	l.head = min(max(l.head, l.through.Load()), l.seq)
	for {
		for l.head >= l.first.base+chunkLen && l.first.next != nil {
			old := l.first
			l.first, old.next = old.next, nil // a receipt that is kept must not keep all that come after it
		}
		n := l.first.acknowledgedFrom(l.head, l.seq)
		if n == 0 {
			break
		}
		if l.Storing {
			l.behind = max(l.behind, l.first.newestStored(l.head, l.head+n))
		}
		l.head += n
	}
	i := 0
	for marks := l.marks.all(); i < len(marks) && marks[i].seq <= l.head && l.isStored(marks[i]); i++ {
		l.Confirmed = marks[i].lsn
	}
	if l.Storing {
		i = l.reach(i)
	}
	l.marks.drop(i)
	return l.Confirmed
}

// reach notes the highest mark that is reached. The first i are confirmed. It returns how many marks are of no more use: of those
// that are reached and not stored the last one will do.
func (l *Ledger) reach(i int) int {
	n, marks := i, l.marks.all()
	for n < len(marks) && marks[n].seq <= l.head {
		n++
	}
	if n > 0 {
		l.reached = l.points.all()[n-1]
	}
	if n > i {
		i = n - 1
	}
	l.points.drop(i)
	return i
}

// Checkpoint returns the place up to which everything is acknowledged, stored or not.
func (l *Ledger) Checkpoint() resume.Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reached
}

// Forget drops the marks of an attempt to begin, which mean nothing to the next attempt.
func (l *Ledger) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks, l.points = fifo[mark]{}, fifo[resume.Place]{}
	l.reached, l.saved, l.Confirmed = resume.Place{}, 0, 0
}

// Start sets what Checkpoint returns before anything is acknowledged.
func (l *Ledger) Start(p resume.Place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reached = p
}

// Save notes that the consumer has stored a checkpoint that Checkpoint returned.
func (l *Ledger) Save(lsn wal.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saved = max(l.saved, min(lsn, l.reached.Through))
}

// isStored says whether a consumer that stores checkpoints has that of the message before the mark, or a later one.
func (l *Ledger) isStored(m mark) bool {
	return !l.Storing || max(l.behind, l.stored.Load()) >= m.seq || l.saved >= m.lsn || l.isStoredAhead()
}

// isStoredAhead says whether a later message than the oldest unacknowledged one was acknowledged, and not skipped.
func (l *Ledger) isStoredAhead() bool {
	for c, n := l.first, l.head; c != nil; c, n = c.next, c.base+chunkLen {
		if c.newestStored(n, c.base+chunkLen) > 0 {
			return true
		}
	}
	return false
}

// newestStored returns the number of the newest message of c from number seq on, below end, that was acknowledged and not skipped, plus 1; 0:
// there is none.
func (c *chunk) newestStored(seq, end uint64) uint64 {
	for end > seq {
		i := end - 1 - c.base
		word := c.acked[i/64].Load() &^ c.skipped[i/64].Load() & (^uint64(0) >> (63 - i%64))
		begin := end - 1 - i%64
		if n := begin + uint64(bits.Len64(word)); word != 0 {
			if n > seq {
				return n
			}
			return 0
		}
		end = begin
	}
	return 0
}

// Last returns the highest position that was confirmed or may be once what was delivered is acknowledged.
func (l *Ledger) Last() wal.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.marks.len() > 0 {
		return l.marks.last().lsn
	}
	return l.Confirmed
}

// Begin says where what is delivered from now on begins: all before it is confirmed.
func (l *Ledger) Begin(lsn wal.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Confirmed = lsn
}

// Rewind lowers what may be confirmed to lsn, for a server whose timeline has forked there.
func (l *Ledger) Rewind(lsn wal.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Confirmed, l.saved = min(l.Confirmed, lsn), min(l.saved, lsn)
	for i, marks := 0, l.marks.all(); i < len(marks); i++ {
		marks[i].lsn = min(marks[i].lsn, lsn)
	}
}

// acknowledgedFrom counts the acknowledged messages of c from number seq on without a gap, below end.
func (c *chunk) acknowledgedFrom(seq, end uint64) uint64 {
	end = min(end, c.base+chunkLen)
	n := seq
	for n < end {
		i := n - c.base
		run := uint64(bits.TrailingZeros64(^(c.acked[i/64].Load() >> (i % 64))))
		run = min(run, 64-i%64)
		n += run
		if run < 64-i%64 {
			break
		}
	}
	return min(n, end) - seq
}

// Tick tells the ledger the time, for the age of messages.
func (l *Ledger) Tick(now time.Time) { l.clock = uint32(now.UnixMilli()) }

// Outstanding returns how many messages were delivered from the oldest unacknowledged one on, as of the last advance.
func (l *Ledger) Outstanding() uint64 { return l.seq - l.head }

// Interest is what the owner wants to be woken for.
type Interest int

const (
	Nothing  Interest = iota
	NextMark          // a mark can be reached
	Oldest            // the oldest message is acknowledged
	All               // everything is acknowledged
)

// WatchFor has the acknowledgement wake the owner that brings it nearer to what it wants. It returns false, and watches
// nothing, if that came already: then Advance has something to take in. The owner calls it when it has announced that it
// is about to sleep, so that no acknowledgement falls between.
func (l *Ledger) WatchFor(what Interest) bool {
	if what == Nothing {
		return true
	}
	l.mu.Lock()
	end := min(l.seq, l.first.base+chunkLen)
	switch {
	case what == Oldest:
		end = min(end, l.head+1)
	case what == NextMark && l.marks.len() == 0:
		end = 0
	case what == NextMark && l.marks.all()[0].seq > l.head: // else it waits for a message that is stored
		end = min(end, l.marks.all()[0].seq)
	}
	head, c := l.head, l.first
	l.mu.Unlock()
	if end <= head {
		return true
	}
	// Newest first: whoever acknowledges in order comes there last.
	for n := end; n > head; n-- {
		if c.isAcked(n - 1) {
			continue
		}
		l.watch.Store(n)
		if !c.isAcked(n-1) && l.through.Load() < n {
			return true
		}
		l.watch.Store(0)
		return false
	}
	return false
}

func (c *chunk) isAcked(seq uint64) bool {
	i := seq - c.base
	return c.acked[i/64].Load()&(1<<(i%64)) != 0
}

// Close ends the ledger: later acknowledgements are counted and have no effect.
func (l *Ledger) Close() { l.watch.Store(closed) }
