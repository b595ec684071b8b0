package walchan

import (
	"errors"
	"os"
	"time"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
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
	o.feed.Connected(feed.Beginning{From: c.From, Until: o.until, Source: c.origin, Flow: &c.Flow})
	defer func() {
		o.feed.Disconnected()
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
	t := &feed.Turn{}
	var frame *session.Frame
	for {
		a, err := o.feed.Next(frame, t)
		frame = nil
		switch {
		case err != nil:
		case a == feed.NextFrame:
			frame, err = o.nextFrame(c, t)
		case a == feed.Deliver:
			err = o.handOver(t.Item)
		case a == feed.DeliverLast:
			if err = o.handOver(t.Item); err == nil {
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

// nextFrame waits for a frame.
func (o *owner) nextFrame(c *connection, t *feed.Turn) (*session.Frame, error) {
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
func (o *owner) perform(c *connection, a feed.Act, t *feed.Turn) error {
	switch a {
	case feed.Settle:
		o.mark(t.Confirm, t.Place)
		c.Received = max(c.Received, t.Received)
		t.Confirmed = o.ledger.Confirmed
	case feed.IsBetween:
		c.ahead = max(c.ahead, t.Received)
	case feed.Describe:
		return o.describe(c, t.Table)
	case feed.AskServer:
		return o.absent(t.Trial)
	case feed.AcceptServer:
		c.Received = max(c.Received, t.Received)
		o.accept(c, t.Because)
	case feed.DeliverPiece:
		return o.deliverPiece(t.Item, t.Place)
	case feed.Breathe:
		_, err := o.attend(c, time.Now())
		c.Listen(time.Now())
		return err
	case feed.Repeat:
		o.cfg.log.Warn("the server sends a transaction differently than before (was a publication altered, or is it another list?): it is delivered again as a whole",
			append([]any{"slot", o.source.Slot}, t.Details...)...)
		return errAgain
	case feed.Finish:
		o.received(t.Received)
		return errEnded
	}
	return nil
}

var errAgain = errors.New("walchan: a transaction is delivered again")

// mark has a position confirmed once everything delivered so far is acknowledged; 0: none. place is what the checkpoint of the last
// message says.
func (o *owner) mark(confirm LSN, place *resume.Place) {
	switch {
	case confirm == 0:
	case !o.ledger.Storing:
		o.ledger.Mark(confirm)
	case place != nil:
		o.ledger.MarkBefore(confirm, place)
	}
}

// takeIn takes in, at a stop, what comes within a moment and needs no delivery: above all the commit of the transaction whose
// last change was delivered, without which a consumer that stops there would see the transaction again.
func (o *owner) takeIn(c *connection, t *feed.Turn) {
	c.Gather(false)
	end := time.Now().Add(takeInTime)
	err := c.Arm(end)
	for a := feed.NextFrame; err == nil; {
		var frame *session.Frame
		switch a {
		case feed.NextFrame:
			var ok bool
			if ok, err = c.Next(&c.frame); !ok && err == nil {
				if err = c.Fill(); errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) {
					err = c.Arm(end) // whoever has woken the owner was late
				}
				continue
			}
			if frame = &c.frame; frame.Keepalive {
				o.received(c.frame.End)
			}
		case feed.Settle, feed.IsBetween, feed.AcceptServer:
			_ = o.perform(c, a, t)
		case feed.Describe: // no row of it is delivered any more
		case feed.Finish:
			_ = o.perform(c, a, t) // it says that the stream has ended, which it does anyway
			return
		case feed.Deliver, feed.DeliverLast:
			o.feed.TakeBack()
			return
		default:
			return
		}
		if err == nil {
			a, err = o.feed.Next(frame, t)
		}
	}
}

const takeInTime = time.Millisecond // at a stop

var errStopped = errors.New("walchan: stopped")
