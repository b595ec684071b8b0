package walchan

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/link"
)

// The owner waits in one place. Whatever it waits for, it attends to its connection before.

// wait is what the owner waits for, besides the time, those who wake it, and the end.
type wait struct {
	until    time.Time
	interest ledger.Interest // what an acknowledgement wakes it for

	reads  bool // it waits for bytes of the server
	gather bool // it lets them pile up first

	out     chan<- Message // it waits until message is taken; nil: it does not
	message *Message

	ready func() bool // what it waits for is there, and nobody will wake it for that any more; nil: nothing else
}

// hold attends to the connection until what it waits for has happened, or look says that it is over. look is called before each
// wait. It is given the wait as far as the connection needs it, and returns it as it is to be. A pointer would cost an allocation.
func (o *owner) hold(c *connection, w wait, look func(now time.Time, w wait) (_ wait, isOver bool, err error)) error {
	for {
		now := time.Now()
		next, err := o.attend(c, now)
		if err != nil {
			return err
		}
		w.until, w.interest = next, c.interest()
		var isOver bool
		if w, isOver, err = look(now, w); isOver || err != nil {
			return err
		}
		if happened, err := o.wait(c, now, &w); happened || err != nil {
			return err
		}
	}
}

// wait waits once. It says whether what it waited for has happened; else the time has come, or somebody woke it.
func (o *owner) wait(c *connection, now time.Time, w *wait) (happened bool, err error) {
	if w.reads {
		return o.read(c, now, w)
	}
	if !o.sleep(waiting, w) {
		return false, nil
	}
	defer o.asleep.Store(awake)
	var message Message
	if w.message != nil {
		message = *w.message
	}
	o.timer.Reset(w.until.Sub(now))
	select {
	case w.out <- message:
		return true, nil
	case <-o.timer.C:
	case <-o.wakeup:
	}
	return false, nil
}

// read is a wait in a read. The deadline comes first, then the announcement, then a look whether anything has happened. Whoever comes
// after that interrupts the read. In another order a wake-up could be lost.
func (o *owner) read(c *connection, now time.Time, w *wait) (happened bool, err error) {
	if w.gather {
		w.until = earliest(w.until, now.Add(c.Flow.Patience()))
	}
	c.Gather(w.gather)
	if err := c.Arm(w.until); err != nil {
		return false, err
	}
	if !o.sleep(reading, w) {
		return false, nil
	}
	err = c.Read(now, w.gather)
	o.asleep.Store(awake)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.gather = false // there may be a little to read, and what comes next need not wait again
		return false, nil
	}
	o.ledger.Tick(c.Liveness.HeardAt) // the read may have lasted
	return true, err
}

// sleep announces that the owner is about to wait. It returns false if it should not: something it would be woken for has
// happened.
func (o *owner) sleep(how int32, w *wait) bool {
	o.asleep.Store(how)
	if o.ledger.WatchFor(w.interest) && !o.attention.Load() && (w.ready == nil || !w.ready()) {
		return true
	}
	o.asleep.Store(awake)
	return false
}

// What the owner sleeps in.
const (
	awake   int32 = iota
	reading       // a read from the connection
	waiting       // a select on the channel and the timer
)

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

// attend does what is due, whatever the owner is waiting for: it ends the stream if that is asked for, and tells the
// server what it has to know. It returns when it wants to be called again at the latest.
func (o *owner) attend(c *connection, now time.Time) (time.Time, error) {
	o.attention.Store(false)
	if o.ctx.Err() != nil && o.state != StateDraining {
		return now, errStopped
	}
	if c.snapshot != nil {
		return c.snapshot.attend(o, c, now)
	}
	next, err := o.report(c, now)
	if err != nil {
		return now, err
	}
	leave, err := o.letGo(c, now)
	return earliest(earliest(next, leave), o.watchdog(now)), err
}

// report tells the server the positions if that is due, and returns when it is next.
func (o *owner) report(c *connection, now time.Time) (time.Time, error) {
	o.ledger.Tick(now)
	flushes := o.flushes.pending() // before the ledger is asked: what was acknowledged before Flush is in the status
	next, err := c.Report(o.ledger.Advance(), now, flushes > 0)
	o.told = max(o.told, c.Status.Told)
	o.publish(c)
	if err == nil {
		o.flushes.release(flushes)
	}
	return next, err
}

// receive waits for something to read.
//
// Where the changes are late anyway it lets small messages pile up first. PostgreSQL sends each by itself, and to be woken
// for each costs the client, and the server that wakes it, more than all else they do.
func (o *owner) receive(c *connection) error {
	return o.hold(c, wait{reads: true, gather: c.Flow.Gathers()}, func(now time.Time, w wait) (wait, bool, error) {
		if c.Flow.Idle(now) {
			o.setState(StateIdle, nil)
		}
		due, err := o.progress(c, now)
		if err != nil {
			return w, false, err
		}
		alive, err := o.alive(c, now)
		w.until = earliest(earliest(w.until, due), alive)
		if w.interest = c.interest(); w.gather {
			w.interest = ledger.Nothing // they are late anyway: it takes in what is acknowledged when it has read
		}
		return w, false, err
	})
}

// deliver gives a message to the consumer, and waits if it must.
func (o *owner) deliver(m *Message) error {
	if o.attention.Load() || !o.offer(m) {
		if err := o.deliverSlowly(m); err != nil {
			return err
		}
	}
	o.ledger.Delivered()
	o.sizes.add(m.data.len)
	o.setState(StateStreaming, nil)
	return nil
}

// offer puts a message into the channel, if there is room.
func (o *owner) offer(m *Message) bool {
	n := len(o.out)
	if n == cap(o.out) || !o.room() || !o.sizes.fits(n, m.data.len) {
		return false
	}
	m.ack = Receipt{o.ledger.Next()}
	o.out <- *m // at once, because nobody else sends; a select would make a copy first
	return true
}

// room says whether another message may be outstanding.
func (o *owner) room() bool { return o.ledger.Outstanding() < uint64(o.cfg.maxUnacked) }

// deliverSlowly waits for room. The message waits in the owner, because one that is taken into a wait would be allocated.
func (o *owner) deliverSlowly(message *Message) error {
	c, began := o.conn.Load(), time.Now()
	m := &o.waiting
	*m = *message
	looked := false
	err := o.hold(c, wait{message: m}, func(now time.Time, w wait) (wait, bool, error) {
		if looked && o.offer(m) { // else it says that it is blocked, and is not any more
			return w, true, nil
		}
		looked = true
		m.ack = Receipt{o.ledger.Next()}
		state := StateBlocked
		switch w.out = o.c; {
		case !o.room():
			w.out, w.interest, state = nil, ledger.Oldest, StateUnacked
		case !o.sizes.fits(len(o.c), m.data.len):
			// Nothing tells when the consumer takes a message out of a channel that is not full.
			w.out, w.until = nil, earliest(w.until, now.Add(o.sizes.pause()))
		}
		if now.Sub(began) >= link.Settle {
			o.setState(state, nil)
		} else {
			w.until = earliest(w.until, began.Add(link.Settle))
		}
		return w, false, nil
	})
	*m = Message{}
	if err == nil {
		c.Listen(time.Now())
	}
	return err
}

// await runs f, which may take its time, in a goroutine of its own, and goes on attending to the connection. The error of f is
// failed; err means that the stream, or the connection, has come to its end meanwhile.
func (o *owner) await(f func(context.Context) error) (failed, err error) {
	ctx, cancel := context.WithTimeout(o.ctx, link.AskTimeout)
	defer cancel()
	c, done := o.conn.Load(), make(chan struct{})
	go func() {
		failed = f(ctx)
		close(done)
		o.wake()
	}()
	isDone := func() bool { return isClosed(done) }
	if err := o.hold(c, wait{ready: isDone}, func(_ time.Time, w wait) (wait, bool, error) { return w, isDone(), nil }); err != nil {
		cancel()
		<-done
		return nil, err
	}
	c.Listen(time.Now())
	return failed, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// received notes a position up to which the server has sent everything, and which may be confirmed once all messages
// delivered so far are acknowledged. With checkpoints only a position that a message carries is confirmed, and for a physical stream
// its feed says what is.
func (o *owner) received(lsn LSN) {
	if !o.ledger.Storing && !o.cfg.physical {
		o.ledger.Mark(lsn)
	}
	c := o.conn.Load()
	c.Received = max(c.Received, lsn)
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
