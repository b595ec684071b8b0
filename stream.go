// Package walchan delivers PostgreSQL's write-ahead log on a Go channel.
//
//	stream, err := walchan.Subscribe(ctx, dsn,
//		walchan.WithSlot("orders"), walchan.WithPublication("orders"))
//	if err != nil {
//		return err
//	}
//	defer stream.Close()
//
//	for msg := range stream.C() {
//		if err := handle(context.WithoutCancel(ctx), msg); err != nil {
//			return err
//		}
//		stream.Ack(msg)
//	}
//	return stream.Err()
//
// That loop is correct: a lost connection, a restarted server, a slow handle, a crashed process or a cancelled context in
// the middle of it may cost time, never a change.
//
// # Order
//
// Transactions arrive in commit order, with WithTwoPhase prepared ones where they were prepared; their changes in the order
// they were made.
//
// # Once on the channel, at least once across processes
//
// While a Stream lives a change is delivered once: after a reconnect the server sends every unconfirmed transaction again,
// and the stream recognises what it has delivered. In one case it repeats: where the server sends a transaction
// differently than before, because a publication was altered meanwhile, it comes again whole, with Tx.Redelivered set.
// Other plugins than pgoutput are known once where their transactions' ends are recognised (see WithPlugin).
//
// A new process resumes after the last confirmed transaction, and may see again what was delivered but not confirmed. A consumer
// that stores the Checkpoint of a message beside its result, and gives it back with WithCheckpoint, sees nothing twice.
//
// # Histories
//
// After a fail-over, a restore or a second promotion the same position is another place. A stream looks for a proof, at every
// reconnect, that the server has the history of what was delivered; otherwise it ends with ErrDiverged. With a checkpoint the
// same holds in the next process. Without one, the next process cannot notice it.
//
// # Acknowledging
//
// Every message received from C, of every kind, is acknowledged: in any order, from any goroutine, without blocking.
// Confirmed is the end of the last transaction that lies wholly before the oldest unacknowledged message. So a message that
// is never acknowledged makes the server keep its WAL for ever: it is logged, seen in Stats, and stops delivery at
// WithMaxUnacked.
//
// Nothing is confirmed that was not acknowledged. An idle stream confirms what the server says it has passed, so that a
// quiet table in a busy database holds no WAL.
//
// # Existing rows
//
// With WithSnapshot a stream begins with the rows that exist: SnapshotBegin, a Read for each, SnapshotEnd, and then the changes,
// without a gap or an overlap. The slot comes to exist once all of these are acknowledged. When the connection breaks before,
// the rows start over with another SnapshotBegin. During a snapshot nothing is confirmed. ReadRows delivers the rows of a table
// among the changes.
//
// # Back-pressure
//
// A slow consumer stops the reading of the socket and nothing else: the server goes on being told that we live. The
// buffer is bounded in messages and bytes (WithBuffer), however large a transaction is. What is kept of transactions in
// progress is bounded by itself, and goes on in temporary files (WithStreaming, WithSpool).
//
// # Stopping
//
// The context given to Subscribe governs the stream's life. When it ends, nothing more is put into the buffer; what is in it still
// comes out, then C is closed. Meanwhile the stream waits until everything delivered is acknowledged, at most for the
// drain timeout, tells the server the last position and ends the connection. Close does not wait for acknowledgements.
// After a permanent error C is closed behind what is in the buffer, and Err says what happened.
package walchan

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/backfill"
	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/internal/value"
)

// Stream is a subscription. It outlives its connections: messages received before a reconnect are acknowledged as if
// nothing had happened. One goroutine, the owner, has the connection and the channel to itself; the methods may be called
// from any goroutine.
type Stream struct {
	cfg    *config
	c      chan Message // sent to and closed by the owner
	ledger *ledger.Ledger
	ctx    context.Context // ends when the stream is to stop: the user's context, or Close
	cancel context.CancelFunc
	done   chan struct{} // closed by the owner when it ends

	bell
	conn    atomic.Pointer[connection] // to interrupt its read
	flushes flushes
	gauge   gauge
	source  Source     // set by the first connection
	given   Checkpoint // what the consumer had then
	types   *value.Types
	reading atomic.Pointer[backfill.Notes] // of the call of ReadRows that is at work
	outcome
}

// bell is how others get the owner's attention: they say what they want, then wake it.
type bell struct {
	closing   atomic.Bool // Close was called: wait for no acknowledgement
	attention atomic.Bool // look up from delivering: stop, or Flush
	asleep    atomic.Int32
	wakeup    chan struct{} // 1; to end a wait on the channel
}

// outcome is how the stream has ended.
type outcome struct {
	err      error // set before c is closed
	closeErr error // set before done is closed: what Close returns
}

// owner is the goroutine that has the connection and the channel to itself, from the first connection to the end.
type owner struct {
	*Stream
	out    chan<- Message // the stream's, and near
	ledger *ledger.Ledger // likewise

	id    uint64 // among those who make the same slot
	timer *time.Timer
	sizes sizes // bytes of the messages in c
	delivery
	until LSN // where the stream ends
	state StreamState
	known LSN // what the server is known to have as confirmed
	told  LSN // the highest position that any server was told

	outage    link.Outage
	snapshots begin.Snapshot
	flowing   StreamState // while messages come: StateStreaming or StateSnapshot
	forgotten forgotten
}

// Subscribe connects, checks all that can be checked, starts streaming and returns: a wrong password, a missing slot or
// publication, a wrong option are errors here, see the Err variables. The context governs the stream's whole life, not only
// the call: cancelling it is how to stop.
//
// connString is a URL or a keyword/value string, as for pgx and libpq; environment variables, pgpass and service files
// count. A missing slot is an error unless WithCreateSlot is given.
func Subscribe(ctx context.Context, connString string, opts ...Option) (*Stream, error) {
	cfg := newConfig(opts)
	cfg.connString = connString
	if err := cfg.validate(true); err != nil {
		return nil, err
	}
	return launch(ctx, cfg)
}

// launch makes a stream of a configuration that is valid.
func launch(ctx context.Context, cfg *config) (*Stream, error) {
	o := newOwner(newStream(ctx, cfg))
	first, err := o.begin()
	if err != nil {
		o.cancel()
		return nil, err
	}
	context.AfterFunc(o.ctx, o.interrupt)
	o.conn.Store(first)
	go o.run(first)
	return o.Stream, nil
}

func newStream(ctx context.Context, cfg *config) *Stream {
	s := &Stream{
		cfg:   cfg,
		c:     make(chan Message, cfg.messages),
		done:  make(chan struct{}),
		bell:  bell{wakeup: make(chan struct{}, 1)},
		types: value.NewTypes(),
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.ledger = ledger.New(0, s.wake)
	s.ledger.Storing = cfg.checkpoints
	s.gauge.ended = make(chan struct{})
	s.gauge.state, s.gauge.since = StateConnecting, time.Now()
	return s
}

func newOwner(s *Stream) *owner {
	cfg := s.cfg
	o := &owner{
		Stream:    s,
		out:       s.c,
		ledger:    s.ledger,
		id:        rand.Uint64(),
		timer:     time.NewTimer(time.Hour),
		sizes:     sizes{limit: cfg.bytes, queue: make([]int, cfg.messages+1)},
		until:     never,
		snapshots: begin.Snapshot{Due: cfg.snapshot.wanted},
		flowing:   StateStreaming,
	}
	switch {
	case cfg.physical:
		o.feed = &feed.Log{WholeSegments: cfg.wholeSegments}
	case cfg.plugin == pgoutputPlugin:
		o.feed = feed.NewChanges(feed.Options{Transactions: cfg.transactions, Checkpoints: cfg.checkpoints, Parallel: pgoutput.IsParallel(cfg.pgoutputArgs()),
			Store: txn.Store{Limit: cfg.spoolMemory, Dir: cfg.spoolDir}, Reading: &s.reading})
	default:
		o.feed = feed.NewPlugin(cfg.plugin, cfg.pluginArgs)
	}
	return o
}

// C returns the channel of messages. The stream closes it, once: behind the last message after a stop, at its end
// (WithUntil), or after a permanent error; ask Err then. Any number of goroutines may receive; each message goes to one of them. There is no way to hand a
// message back: to see it again, Close and Subscribe.
func (s *Stream) C() <-chan Message { return s.c }

// Ack says that m is dealt with. Every message of every kind counts, also one that is skipped. It may be called in any order
// and from any goroutine, never blocks, and a second call does nothing. It does nothing either on the zero Message, and
// once the stream has stopped: that is counted (Stats.LateAcks). A message acknowledges itself to the stream that
// delivered it, whichever stream's Ack is called.
//
// With WithCheckpoint Ack means: the checkpoint of m, or of a later message, is stored. Skip every other message. AckThrough counts
// as Ack of m.
func (s *Stream) Ack(m Message) { m.ack.Ack() }

// Skip says that nothing of m will be stored. Without WithCheckpoint it is Ack. With it the slot goes on once the checkpoint of a
// later message is stored.
func (s *Stream) Skip(m Message) { m.ack.Skip() }

// AckThrough acknowledges m and all that were delivered before it, whoever holds them: for sequential loops that skip or
// batch. It is wrong where several goroutines receive.
func (s *Stream) AckThrough(m Message) { m.ack.AckThrough() }

// Flush returns once a status with all that may be confirmed by then (see Ack) is written to the connection. That happens by itself
// within a millisecond or so, and within 10 ms while the stream is behind. While the stream is reconnecting, Flush waits. It does not wait
// for the server to take the status in: its answer would queue behind data; Close does. The error is ctx's, or ErrClosed.
func (s *Stream) Flush(ctx context.Context) error {
	f := s.flushes.add()
	s.interrupt()
	select {
	case <-f:
		return nil
	case <-s.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Err returns nil while the stream lives, after a stop that was asked for and at its end (WithUntil), the permanent error
// otherwise: ask it when C is closed.
func (s *Stream) Err() error {
	select {
	case <-s.gauge.ended:
		return s.err
	default:
		return nil
	}
}

// Close stops the stream, without waiting for further acknowledgements, tells the server those made before the call,
// and returns once the connection is gone: within 5 s. It dials no more: where the last position did not reach the
// server for certain the result is an *UnconfirmedError, which costs repeats, not changes. It may be called
// more than once, and from the receiving loop.
func (s *Stream) Close() error {
	s.closing.Store(true)
	s.cancel()
	s.interrupt()
	<-s.done
	return s.closeErr
}

// Source returns what the stream's positions belong to. Store it beside a Position.
func (s *Stream) Source() Source { return s.source }
