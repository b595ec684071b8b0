package walchan

import (
	"sync"
	"sync/atomic"
	"time"
)

// StreamState says what a stream is doing.
type StreamState uint8

// The states of a stream.
const (
	StateConnecting StreamState = iota // for the first time
	StateStreaming                     // connected: receiving, or idle because nothing changes
	StateBlocked                       // the consumer has not taken a message for a second
	StateUnacked                       // WithMaxUnacked messages are outstanding
	StateRetrying                      // disconnected: Stats.Err says why
	StateDraining                      // stopped: waiting for acknowledgements
	StateClosed
)

func (s StreamState) String() string {
	return [...]string{"connecting", "streaming", "blocked", "unacked", "retrying", "draining", "closed"}[s]
}

// Stats is what a stream knows of itself. Positions are 0 until they are known.
type Stats struct {
	State   StreamState
	Since   time.Time // since when it is in that state
	Err     error     // why it is retrying, or the permanent error
	Attempt int       // StateRetrying: attempts so far

	Delivered uint64 // messages sent on C
	Unacked   uint64 // of these, not yet acknowledged
	Buffered  int    // of these, still in C

	Received  LSN // highest position the server has sent
	Confirmed LSN // highest position that may be confirmed; told to the server within a millisecond

	Oldest    LSN           // end of the transaction of the oldest unacknowledged message, once that is known
	OldestAge time.Duration // since that message was sent on C; 0: all is acknowledged

	Reconnects uint64
	LateAcks   uint64 // acknowledgements after the stream has stopped
}

// gauge holds what the owner publishes for Stats.
type gauge struct {
	mu         sync.Mutex
	state      StreamState
	since      time.Time
	err        error
	attempt    int
	reconnects uint64
	received   atomic.Uint64
	ended      chan struct{} // closed once Stream.err is set
}

func (g *gauge) set(state StreamState, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
	if g.state != state {
		g.state, g.since = state, time.Now()
	}
}

func (g *gauge) retrying(attempt int, err error) {
	g.set(StateRetrying, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attempt = attempt
}

func (g *gauge) reconnected() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attempt = 0
	g.reconnects++
}

// Stats returns what the stream knows of itself at this moment, from any goroutine, without asking the server.
func (s *Stream) Stats() Stats {
	b := s.ledger.backlog(time.Now())
	s.gauge.mu.Lock()
	defer s.gauge.mu.Unlock()
	return Stats{
		State:      s.gauge.state,
		Since:      s.gauge.since,
		Err:        s.gauge.err,
		Attempt:    s.gauge.attempt,
		Delivered:  b.delivered,
		Unacked:    b.unacked,
		Buffered:   len(s.c),
		Received:   LSN(s.gauge.received.Load()),
		Confirmed:  b.confirmed,
		Oldest:     b.oldest,
		OldestAge:  b.age,
		Reconnects: s.gauge.reconnects,
		LateAcks:   s.ledger.late.Load(),
	}
}

// watchdog logs, once, that a message stays unacknowledged while later ones are: it makes the server keep WAL for ever. It
// returns when it wants to look again.
func (s *Stream) watchdog(now time.Time) time.Time {
	w := &s.forgotten
	if now.Before(w.next) {
		return w.next
	}
	w.next = now.Add(forgottenAfter / 2)
	b := s.ledger.backlog(now)
	if b.overtaken && b.age >= forgottenAfter && w.logged != b.oldestNumber+1 {
		w.logged = b.oldestNumber + 1
		s.cfg.log.Warn("a message stays unacknowledged while later ones are acknowledged: nothing behind it is confirmed, and the server keeps its WAL",
			"slot", s.source.Slot, "age", b.age.Round(time.Second), "unacknowledged", b.unacked, "confirmed", b.confirmed, "transaction_end", b.oldest)
	}
	return w.next
}

const forgottenAfter = time.Minute

type forgotten struct {
	next   time.Time
	logged uint64 // number of the message that was logged, plus 1
}
