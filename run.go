package walchan

import (
	"errors"
	"time"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
)

// run is the owner: one connection after the other until the stream is stopped or an error is permanent.
func (o *owner) run(c *connection) {
	defer close(o.done)
	defer o.cancel()
	for {
		err := o.streamError(o.stream(c))
		if o.ctx.Err() == nil && !pgfail.IsPermanent(err) {
			if err == errTimelineEnd {
				o.leaveTimeline(c)
			}
			c.hangUp()
			if c, err = o.reconnect(c, err); err == nil {
				continue
			}
		}
		o.end(c, err)
		return
	}
}

// stream is the life of a connection: frames are received and delivered until an error, which may be that the stream is to
// stop.
func (o *owner) stream(c *connection) error {
	o.ledger.Tick(time.Now()) // what comes first is delivered before any wait
	o.succeed(c)
	if c.snapshot != nil {
		if err := o.takeSnapshot(c); err != nil {
			return err
		}
	}
	o.feed.connected(beginning{c.From, o.until, c.origin, &c.Flow})
	defer func() {
		o.feed.disconnected()
		o.publish(c)
	}()
	o.setState(StateStreaming, nil)
	if c.gap != nil {
		return c.gap
	}
	if err := o.serve(c); err != errEnded {
		return err
	}
	return o.reachEnd(c)
}

// serve does what the feed asks for, until the end.
func (o *owner) serve(c *connection) error {
	t := &turn{}
	var frame *session.Frame
	for {
		a, err := o.feed.next(frame, t)
		frame = nil
		switch {
		case err != nil:
		case a == nextFrame:
			frame, err = o.nextFrame(c, t)
		case a == deliver:
			err = o.handOver(t.message)
		case a == deliverLast:
			if err = o.handOver(t.message); err == nil {
				frame, err = o.nextFrame(c, t)
			}
		default:
			err = o.perform(c, a, t)
		}
		if err != nil {
			return err
		}
	}
}

// handOver delivers a message, or has the feed take it back.
func (o *owner) handOver(m *Message) error {
	err := o.deliver(m)
	if err != nil {
		o.feed.takeBack()
	}
	return err
}

// nextFrame waits for a frame.
func (o *owner) nextFrame(c *connection, t *turn) (*session.Frame, error) {
	if c.Received >= o.until {
		return nil, errEnded
	}
	for {
		ok, err := c.Next(&c.frame)
		switch {
		case err != nil:
			return nil, err
		case ok:
			o.tookIn(c)
			return &c.frame, nil
		}
		c.frame.Data = nil // or it would keep a large buffer that is let go
		if err = o.receive(c); err == errStopped {
			o.takeIn(c, t)
		}
		if err != nil {
			return nil, err
		}
	}
}

// tookIn notes what c.frame says of the connection.
func (o *owner) tookIn(c *connection) {
	if c.frame.Keepalive {
		o.received(c.frame.End)
		c.Keepalive(&c.frame)
		return
	}
	c.Flow.Busy = true
	if o.cfg.physical {
		o.gauge.walEnd.Store(uint64(c.frame.End))
	}
}

// perform does what a feed asks for beside deliveries.
func (o *owner) perform(c *connection, a act, t *turn) error {
	switch a {
	case settle:
		o.markSettled(c, t)
	case isBetween:
		c.ahead = max(c.ahead, t.received)
	case lookUp:
		return o.lookUp(t.relation, t.oids)
	case askServer:
		return o.absent(t.trial)
	case acceptServer:
		c.Received = max(c.Received, t.received)
		o.accept(c, t.because)
	case deliverPiece:
		return o.deliverPiece(t.message, t.place)
	case breathe:
		_, err := o.attend(c, time.Now())
		c.Listen(time.Now())
		return err
	case repeat:
		o.cfg.log.Warn("the server sends a transaction differently than before (was a publication altered, or is it another list?): it is delivered again as a whole",
			append([]any{"slot", o.source.Slot}, t.details...)...)
		return errAgain
	case finish:
		o.received(t.received)
		return errEnded
	}
	return nil
}

// markSettled notes that everything up to a position has come.
func (o *owner) markSettled(c *connection, t *turn) {
	switch {
	case t.confirm == 0:
	case !o.ledger.Storing:
		o.ledger.Mark(t.confirm)
	case t.place != nil:
		o.ledger.MarkBefore(t.confirm, t.place)
	}
	c.Received = max(c.Received, t.received)
	t.confirmed = o.ledger.Confirmed
}

// takeIn takes in, at a stop, what comes within a moment and needs no delivery: above all the commit of the transaction whose
// last change was delivered, without which a consumer that stops there would see the transaction again.
func (o *owner) takeIn(c *connection, t *turn) {
	c.Gather(false)
	err := c.Arm(time.Now().Add(takeInTime))
	for a := nextFrame; err == nil; {
		var frame *session.Frame
		switch a {
		case nextFrame:
			var ok bool
			if ok, err = c.Next(&c.frame); !ok && err == nil {
				err = c.Fill()
				continue
			}
			if frame = &c.frame; frame.Keepalive {
				o.received(c.frame.End)
			}
		case settle, isBetween, acceptServer:
			_ = o.perform(c, a, t)
		case finish:
			_ = o.perform(c, a, t) // it says that the stream has ended, which it does anyway
			return
		case deliver, deliverLast:
			o.feed.takeBack()
			return
		default:
			return
		}
		if err == nil {
			a, err = o.feed.next(frame, t)
		}
	}
}

const takeInTime = time.Millisecond // at a stop

var errStopped = errors.New("walchan: stopped")
