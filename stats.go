package walchan

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/snapshot"
)

// Stats is what a stream knows of itself. A position is 0 until it is known.
type Stats struct {
	State   StreamState   `json:"state"`
	Since   time.Time     `json:"since,omitzero"`    // since when
	Err     error         `json:"-"`                 // why it is retrying, or has ended
	Attempt int           `json:"attempt,omitempty"` // StateRetrying: the next attempt's number, since there was last progress
	Delay   time.Duration `json:"-"`                 // StateRetrying: before it

	Delivered uint64 `json:"delivered"` // messages sent on C
	Unacked   uint64 `json:"unacked"`   // of these, not yet acknowledged
	Buffered  int    `json:"buffered"`  // of these, still in C

	Received LSN `json:"-"` // up to here the server has sent everything
	// Acknowledged is the position up to which everything is acknowledged: it may be confirmed. After a reconnect to a server
	// that was restarted it may be lower than before, because keepalives of before count no more.
	Acknowledged LSN `json:"-"`
	Confirmed    LSN `json:"-"` // the last position that was written to the server

	Oldest    LSN           `json:"-"` // end of the transaction of the oldest unacknowledged message; 0: none, or not yet known
	OldestAge time.Duration `json:"-"` // since that message was sent on C; 0: all is acknowledged

	LagBytes uint64        `json:"lag_bytes"` // from Confirmed to the end of WAL, as far as the server has told of it
	Lag      time.Duration `json:"-"`         // age of the last received transaction when the server sent it (by its clock), plus OldestAge

	// Spooled is how many bytes are kept of transactions in progress, in memory and in temporary files (WithStreaming). Nobody
	// else sees the latter, for they are in no directory.
	Spooled int64 `json:"spooled"`

	// Unproven says that nothing could prove that the server has the history of what was delivered, or of the checkpoint: see
	// WithProof.
	Unproven bool `json:"unproven"`

	Reconnects uint64 `json:"reconnects"`
	LateAcks   uint64 `json:"late_acks"` // acknowledgements after the stream has stopped, which did nothing

	Snapshot []TableProgress `json:"snapshot,omitempty"` // of WithSnapshot, a table each, and of the last ReadRows; also when they are complete
}

// gauge holds what the owner publishes for Stats.
type gauge struct {
	mu sync.Mutex
	doing

	received, confirmed, walEnd atomic.Uint64
	sendLag                     atomic.Int64 // nanoseconds
	snapshot                    atomic.Pointer[snapshotRun]
	read                        atomic.Pointer[snapshot.Table] // by the last ReadRows
	spooled                     atomic.Int64
	unproven                    atomic.Bool

	ended chan struct{} // closed once Stream.err is set
}

// doing is what the stream does.
type doing struct {
	state      StreamState
	since      time.Time
	err        error
	attempt    int
	delay      time.Duration
	reconnects uint64
}

// Stats returns what the stream knows of itself at this moment, from any goroutine, without asking the server.
func (s *Stream) Stats() Stats {
	g := &s.gauge
	confirmed := LSN(g.confirmed.Load()) // first: what is confirmed was acknowledged before
	b := s.ledger.Look(time.Now())
	st := Stats{
		Delivered:    b.Delivered,
		Unacked:      b.Unacked,
		Buffered:     len(s.c),
		Received:     LSN(g.received.Load()),
		Acknowledged: b.Confirmed,
		Confirmed:    min(confirmed, b.Confirmed), // a rewind may have come in between
		Oldest:       b.Oldest,
		OldestAge:    b.Age,
		Spooled:      s.gauge.spooled.Load(),
		Unproven:     s.gauge.unproven.Load(),
		LateAcks:     s.ledger.Late.Load(),
		Snapshot:     append(g.snapshot.Load().progress(), progressOf(g.read.Load())...),
	}
	if end := max(LSN(g.walEnd.Load()), st.Received); end > st.Confirmed {
		st.LagBytes = uint64(end - st.Confirmed)
	}
	st.Lag = time.Duration(g.sendLag.Load()) + b.Age
	g.mu.Lock()
	defer g.mu.Unlock()
	st.State, st.Since, st.Err, st.Reconnects = g.state, g.since, g.err, g.reconnects
	if st.State.hasAttempts() {
		st.Attempt, st.Delay = g.attempt, g.delay
	}
	return st
}

// publish tells Stats how far the connection has come.
func (o *owner) publish(c *connection) {
	o.gauge.received.Store(uint64(c.Received))
	o.gauge.confirmed.Store(uint64(c.Status.Told))
	o.gauge.sendLag.Store(int64(c.Flow.Lag))
	o.gauge.spooled.Store(o.feed.Held())
}

// watchdog logs, once, that a message stays unacknowledged while later ones are: it makes the server keep WAL for ever. It
// returns when it wants to look again.
func (o *owner) watchdog(now time.Time) time.Time {
	w := &o.forgotten
	if now.Before(w.next) {
		return w.next
	}
	w.next = now.Add(forgottenAfter / 2)
	b := o.ledger.Look(now)
	if b.Overtaken && b.Age >= forgottenAfter && w.logged != b.OldestNumber+1 {
		w.logged = b.OldestNumber + 1
		o.cfg.log.Warn("a message stays unacknowledged while later ones are acknowledged: nothing behind it is confirmed, and the server keeps its WAL",
			"slot", o.source.Slot, "age", b.Age.Round(time.Second), "unacknowledged", b.Unacked, "acknowledged", b.Confirmed.String(), "transaction_end", b.Oldest.String())
	}
	return w.next
}

const forgottenAfter = time.Minute

type forgotten struct {
	next   time.Time
	logged uint64 // number of the message that was logged, plus 1
}
