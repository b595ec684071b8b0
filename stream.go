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
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
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

	// How others get the owner's attention: they say what they want, then wake it.
	closing   atomic.Bool // Close was called: wait for no acknowledgement
	attention atomic.Bool // look up from delivering: stop, or Flush
	asleep    atomic.Int32
	conn      atomic.Pointer[connection] // to interrupt its read
	wakeup    chan struct{}              // 1; to end a wait on the channel

	id      uint64 // among those who make the same slot
	flushes flushes
	gauge   gauge
	source  Source     // set by the first connection
	given   Checkpoint // what the consumer had then
	types   *value.Types
	reading atomic.Pointer[tableReading] // the call of ReadRows that is at work

	err      error // set before c is closed
	closeErr error // set before done is closed: what Close returns

	// The owner's own.
	timer *time.Timer
	sizes sizes // bytes of the messages in c
	feed  feed  // from the server's frames to messages
	until LSN   // where the stream ends
	state StreamState
	known LSN // what the server is known to have as confirmed
	told  LSN // the highest position that any server was told

	outage outage

	snapshots snapshots
	flowing   StreamState // while messages come: StateStreaming or StateSnapshot

	forgotten forgotten
}

// What the owner sleeps in.
const (
	awake   int32 = iota
	reading       // a read from the connection
	waiting       // a select on the channel and the timer
)

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
	s := newStream(ctx, cfg)
	first, err := s.begin()
	if err != nil {
		s.cancel()
		return nil, err
	}
	context.AfterFunc(s.ctx, s.interrupt)
	s.conn.Store(first)
	go s.run(first)
	return s, nil
}

func newStream(ctx context.Context, cfg *config) *Stream {
	s := &Stream{
		cfg:    cfg,
		c:      make(chan Message, cfg.messages),
		done:   make(chan struct{}),
		wakeup: make(chan struct{}, 1),
		timer:  time.NewTimer(time.Hour),
		until:  never,
		id:     rand.Uint64(),
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.sizes = sizes{limit: cfg.bytes, queue: make([]int, cfg.messages+1)}
	s.ledger = ledger.New(0, s.wake)
	s.ledger.Storing = cfg.checkpoints
	s.gauge.ended = make(chan struct{})
	s.gauge.since = time.Now()
	s.types = value.NewTypes()
	s.snapshots.due, s.flowing = cfg.snapshot.wanted, StateStreaming
	switch {
	case cfg.physical:
		s.feed = &walFeed{wholeSegments: cfg.wholeSegments}
	case cfg.plugin == pgoutputPlugin:
		s.feed = newChanges(cfg)
	default:
		s.feed = &raw{ends: transactionEnds(cfg.plugin, cfg.pluginArgs)}
	}
	return s
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

// Flush returns once a status with all that may be confirmed by then (see Ack) is written to the connection, which happens by
// itself within a millisecond or so. While the stream is reconnecting it waits. It does not wait for the server to take it
// in: its answer would queue behind data; Close does. The error is ctx's, or ErrClosed.
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

// run is the owner: one connection after the other until the stream is stopped or an error is permanent.
func (s *Stream) run(c *connection) {
	defer close(s.done)
	defer s.cancel()
	for {
		err := s.streamError(s.stream(c))
		if s.ctx.Err() == nil && !pgfail.IsPermanent(err) {
			if err == errTimelineEnd {
				s.leaveTimeline(c)
			}
			c.hangUp()
			if c, err = s.reconnect(c, err); err == nil {
				continue
			}
		}
		s.end(c, err)
		return
	}
}

// stream is the life of a connection: frames are received and delivered until an error, which may be that the stream is to
// stop.
func (s *Stream) stream(c *connection) error {
	s.ledger.Tick(time.Now()) // what comes first is delivered before any wait
	s.succeed(c)
	if c.snapshot != nil {
		if err := s.takeSnapshot(c); err != nil {
			return err
		}
	}
	s.feed.connected(c)
	defer func() {
		s.feed.disconnected()
		s.publish(c)
	}()
	s.setState(StateStreaming, nil)
	if c.gap != nil {
		return c.gap
	}
	for c.received < s.until {
		ok, err := c.Next(&c.frame)
		switch {
		case err != nil:
		case !ok:
			c.frame.Data = nil // or it would keep a large buffer that is let go
			if err = s.receive(c); err == errStopped {
				s.takeIn(c)
			}
		case c.frame.Keepalive:
			s.received(c.frame.End)
			c.keepalive()
			err = s.feed.keepalive(s, c)
		default:
			c.flow.Busy = true
			err = s.feed.data(s, &c.frame)
		}
		if err != nil {
			if err == errEnded {
				return s.reachEnd(c)
			}
			return err
		}
	}
	return s.reachEnd(c)
}

// takeIn takes in, at a stop, what comes within a moment and needs no delivery: above all the commit of the transaction whose
// last change was delivered, without which a consumer that stops there would see the transaction again.
func (s *Stream) takeIn(c *connection) {
	s.attention.Store(true) // deliver refuses the next message
	c.Gather(false)
	err := c.Arm(time.Now().Add(takeInTime))
	for err == nil {
		var ok bool
		switch ok, err = c.Next(&c.frame); {
		case err != nil:
		case !ok:
			err = c.Fill()
		case c.frame.Keepalive:
			s.received(c.frame.End)
		default:
			err = s.feed.data(s, &c.frame)
		}
	}
}

const takeInTime = time.Millisecond // at a stop

// receive waits for something to read.
//
// Where the changes are late anyway it lets small messages pile up first. PostgreSQL sends each by itself, and to be woken
// for each costs the client, and the server that wakes it, more than all else they do.
func (s *Stream) receive(c *connection) error {
	gather := c.flow.Gathers()
	for {
		now := time.Now()
		next, err := s.attend(c, now)
		if err != nil {
			return err
		}
		if c.flow.Idle(now) {
			s.setState(StateIdle, nil)
		}
		due, err := s.progress(c, now)
		if err != nil {
			return err
		}
		next = earliest(next, due)
		alive, err := s.alive(c, now)
		if err != nil {
			return err
		}
		// The deadline first, then the announcement, then a look whether anything has happened: whoever comes later
		// interrupts the read. In another order a wake-up could be lost.
		until := earliest(next, alive)
		if gather {
			until = earliest(until, now.Add(c.flow.Patience()))
		}
		c.Gather(gather)
		if err := c.Arm(until); err != nil {
			return err
		}
		if !s.sleep(reading, c.interest()) {
			continue
		}
		err = c.read(now, gather)
		s.asleep.Store(awake)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			s.ledger.Tick(c.liveness.HeardAt) // the read may have lasted
			return err
		}
		gather = false // there may be a little to read, and what comes next need not wait again
	}
}

// deliver gives a message to the consumer, and waits if it must.
func (s *Stream) deliver(m *Message) error {
	if s.attention.Load() || !s.room() || !s.sizes.fits(len(s.c), len(m.data)) {
		return s.deliverSlowly(m)
	}
	m.ack = Receipt{s.ledger.Next()}
	select {
	case s.c <- *m:
		s.delivered(m)
		s.setState(StateStreaming, nil)
		return nil
	default:
		return s.deliverSlowly(m)
	}
}

func (s *Stream) delivered(m *Message) {
	s.ledger.Delivered()
	s.sizes.add(len(m.data))
}

// received notes a position up to which the server has sent everything, and which may be confirmed once all messages
// delivered so far are acknowledged. With checkpoints only a position that a message carries is confirmed, and for a physical stream
// its feed says what is.
func (s *Stream) received(lsn LSN) {
	if !s.ledger.Storing && !s.cfg.physical {
		s.ledger.Mark(lsn)
	}
	c := s.conn.Load()
	c.received = max(c.received, lsn)
}

// room says whether another message may be outstanding.
func (s *Stream) room() bool { return s.ledger.Outstanding() < uint64(s.cfg.maxUnacked) }

func (s *Stream) deliverSlowly(m *Message) error {
	c, began := s.conn.Load(), time.Now()
	for now := began; ; now = time.Now() {
		next, err := s.attend(c, now)
		if err != nil {
			return err
		}
		out, want, state := s.c, c.interest(), StateBlocked
		if !s.room() {
			out, want, state = nil, ledger.Oldest, StateUnacked
		} else if !s.sizes.fits(len(s.c), len(m.data)) {
			// Nothing tells when the consumer takes a message out of a channel that is not full.
			out, next = nil, earliest(next, now.Add(s.sizes.pause()))
		}
		if now.Sub(began) >= link.Settle {
			s.setState(state, nil)
		} else {
			next = earliest(next, began.Add(link.Settle))
		}
		m.ack = Receipt{s.ledger.Next()}
		if s.wait(now, next, want, out, m, nil) {
			s.delivered(m)
			s.setState(StateStreaming, nil)
			c.listen(time.Now())
			return nil
		}
	}
}

// await runs f, which may take its time, in a goroutine of its own, and goes on attending to the connection. The error of f is
// failed; err means that the stream, or the connection, has come to its end meanwhile.
func (s *Stream) await(f func(context.Context) error) (failed, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, awaitTimeout)
	defer cancel()
	c, done := s.conn.Load(), make(chan struct{})
	go func() {
		defer close(done)
		failed = f(ctx)
	}()
	for {
		now := time.Now()
		next, err := s.attend(c, now)
		if err != nil {
			cancel()
			<-done
			return nil, err
		}
		if s.wait(now, next, c.interest(), nil, &Message{}, done) {
			c.listen(time.Now())
			return failed, nil
		}
	}
}

// wait sleeps until a time, a wake-up, or one of the channels; a nil channel is not waited for. It says whether it was a
// channel: m was sent to out, or done is closed.
func (s *Stream) wait(now, until time.Time, want ledger.Interest, out chan<- Message, m *Message, done <-chan struct{}) bool {
	if !s.sleep(waiting, want) {
		return false
	}
	defer s.asleep.Store(awake)
	s.timer.Reset(until.Sub(now))
	select {
	case out <- *m:
		return true
	case <-done:
		return true
	case <-s.timer.C:
	case <-s.wakeup:
	}
	return false
}

// attend does what is due, whatever the owner is waiting for: it ends the stream if that is asked for, and tells the
// server what it has to know. It returns when it wants to be called again at the latest.
func (s *Stream) attend(c *connection, now time.Time) (time.Time, error) {
	s.attention.Store(false)
	if s.ctx.Err() != nil {
		return now, errStopped
	}
	if c.snapshot != nil {
		return c.snapshot.attend(s, c, now)
	}
	next, err := s.report(c, now)
	if err != nil {
		return now, err
	}
	leave, err := c.letGo(s, now)
	return earliest(earliest(next, leave), s.watchdog(now)), err
}

// report tells the server the positions if that is due, and returns when it is next.
func (s *Stream) report(c *connection, now time.Time) (time.Time, error) {
	s.ledger.Tick(now)
	flushes := s.flushes.pending() // before the ledger is asked: what was acknowledged before Flush is in the status
	next, err := c.report(min(s.ledger.Advance(), c.limit), now, flushes > 0)
	s.told = max(s.told, c.status.Told)
	s.publish(c)
	if err == nil {
		s.flushes.release(flushes)
	}
	return next, err
}

var errStopped = errors.New("walchan: stopped")

// sleep announces that the owner is about to wait. It returns false if it should not: something it would be woken for has
// happened.
func (s *Stream) sleep(how int32, want ledger.Interest) bool {
	s.asleep.Store(how)
	if s.ledger.WatchFor(want) && !s.attention.Load() {
		return true
	}
	s.asleep.Store(awake)
	return false
}

// wake ends the owner's sleep, from any goroutine. It may come too late, and end the next one.
func (s *Stream) wake() {
	switch s.asleep.Load() {
	case reading:
		if c := s.conn.Load(); c != nil {
			c.Interrupt()
		}
	case waiting:
		select {
		case s.wakeup <- struct{}{}:
		default:
		}
	}
}

func (s *Stream) interrupt() {
	s.attention.Store(true)
	s.wake()
}

// end is the end of the stream: it closes the channel, waits for what is in hand, and says good-bye to the server.
func (s *Stream) end(c *connection, err error) {
	stopped := errors.Is(err, errStopped) || err == errEnded
	if s.ctx.Err() == nil && !stopped {
		s.err = err
		s.setState(StateClosed, err)
	}
	close(s.gauge.ended)
	close(s.c)
	if c != nil && stopped {
		err = s.drain(c)
	}
	s.ledger.Close()
	s.closeErr = s.farewell(c, err)
	s.conn.Store(nil) // messages that are kept hold the stream, by their receipts, and need not hold its buffers
	s.setState(StateClosed, s.err)
}

// drain waits until everything delivered is acknowledged, at most for the drain timeout since the stream was told to stop, or
// until Close, or until the server is to be let go.
func (s *Stream) drain(c *connection) error {
	if c.snapshot != nil {
		return c.snapshot.drain(s, c)
	}
	s.setState(StateDraining, nil)
	var told time.Time // to stop; zero: was not, but has come to its end
	for {
		now := time.Now()
		if told.IsZero() && s.ctx.Err() != nil {
			told = now
		}
		end := now.Add(time.Hour)
		if !told.IsZero() {
			end = told.Add(s.cfg.drainTimeout)
		}
		s.attention.Store(false)
		next, err := s.report(c, now)
		if err != nil {
			return err
		}
		if s.closing.Load() || s.ledger.Outstanding() == 0 || !now.Before(end) {
			return nil
		}
		leave, err := c.letGo(s, now)
		if err != nil {
			return nil // the grace is over
		}
		s.wait(now, earliest(earliest(next, leave), end), ledger.All, nil, &Message{}, nil)
	}
}

// farewell tells the server the last position and makes sure it has it. err is why the connection cannot be used, if so.
func (s *Stream) farewell(c *connection, err error) error {
	last := s.ledger.Advance()
	if c != nil {
		if err == nil {
			told := min(last, c.limit)
			if err = c.farewell(told, time.Now().Add(s.cfg.closeTimeout)); err == nil {
				s.known = told
			}
		}
		c.hangUp()
	}
	if last <= s.known {
		return nil
	}
	return &UnconfirmedError{Acknowledged: last, Confirmed: s.known, Err: err}
}

// flushes are the calls of Flush that wait for the next status.
type flushes struct {
	mu      sync.Mutex
	waiting []chan struct{}
}

func (f *flushes) add() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	f.waiting = append(f.waiting, c)
	return c
}

func (f *flushes) pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

func (f *flushes) release(n int) {
	if n == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.waiting[:n] {
		close(c)
	}
	f.waiting = f.waiting[n:]
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// sizes knows how many bytes lie in the channel: those of as many of the last messages as the channel holds.
type sizes struct {
	limit  int
	queue  []int // of the last messages
	next   int   // place in queue of the next one
	held   int   // how many of queue count
	total  int   // their sum
	paused time.Duration
}

// fits says whether size more bytes fit behind the n messages that are still in the channel.
func (z *sizes) fits(n, size int) bool {
	for ; z.held > n; z.held-- {
		first := z.next - z.held
		if first < 0 {
			first += len(z.queue)
		}
		z.total -= z.queue[first]
		z.paused = 0
	}
	return z.held == 0 || z.total+size <= z.limit
}

func (z *sizes) add(size int) {
	z.queue[z.next] = size
	if z.next++; z.next == len(z.queue) {
		z.next = 0
	}
	z.held++
	z.total += size
}

// pause returns how long to wait before looking again: longer each time, for a consumer that takes nothing.
func (z *sizes) pause() time.Duration {
	z.paused = min(max(2*z.paused, 100*time.Microsecond), 10*time.Millisecond)
	return z.paused
}
