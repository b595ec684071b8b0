package walchan

import (
	"context"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/session"
)

// With checkpoints a keepalive's position is not confirmed by itself, because nothing that is stored covers it. A Progress carries
// it, and its checkpoint is stored like any other. Progress is rare: a target in the same cluster would otherwise feed itself with
// WAL. But a server that is stopping waits for us, and so does a COMMIT if the stream is a synchronous standby.
const (
	progressBytes = 16 << 20         // a slot keeps WAL in segments, which are usually that large
	progressPause = time.Second      // between two of them
	quietBytes    = 64 << 10         // are enough after quietPause: more than what storing a checkpoint writes, and little enough that the
	quietPause    = time.Minute      // slot does not stand still where a standby is to get a copy of it (sync_replication_slots)
	lookPause     = 10 * time.Second // between two looks at synchronous_standby_names
)

// progress delivers a Progress if one is due, and returns when it is next.
func (o *owner) progress(c *connection, now time.Time) (time.Time, error) {
	later := now.Add(time.Hour)
	if c.ahead == 0 {
		return later, nil
	}
	last := o.ledger.Last()
	if c.ahead <= last {
		return later, nil
	}
	c.lookAtStandbys(o, now)
	ahead, next := c.ahead-last, c.progressAt.Add(progressPause)
	if ahead < progressBytes {
		next = latest(c.progressAt, c.status.Since).Add(quietPause)
	}
	switch {
	case o.ledger.Outstanding() > 0 && ahead < progressBytes:
		return later, nil // an acknowledgement comes first, and wakes the owner
	case c.shutdown.IsNoticed(), c.synchronous.Load():
	case ahead < quietBytes:
		return c.lookedAt.Add(lookPause), nil
	case now.Before(next):
		return earliest(next, c.lookedAt.Add(lookPause)), nil
	}
	c.progressAt = now
	return later, o.deliverProgress(c, o.feed.(*changes))
}

func (o *owner) deliverProgress(c *connection, f *changes) error {
	at := f.here()
	at.Through = max(at.Through, c.ahead)
	if err := o.deliver(&Message{Kind: Progress, LSN: c.ahead, sent: c.frame.SentAt, ext: at}); err != nil {
		return err
	}
	f.moved(at.Point)
	o.ledger.MarkAt(at)
	return nil
}

// reachEnd takes a stream that has come to its end (WithUntil) beyond changes that nobody was sent: the next process begins there.
func (o *owner) reachEnd(c *connection) error {
	f, ok := o.feed.(*changes)
	if !ok || !f.checkpoints || f.current.tx != nil || f.trial != nil || o.until == never || o.until <= o.ledger.Last() {
		return errEnded
	}
	c.ahead = o.until
	if err := o.deliverProgress(c, f); err != nil {
		return err
	}
	return errEnded
}

// sideTask is a goroutine that asks the server something beside the stream.
type sideTask struct {
	done chan struct{} // closed when it has ended; nil: it was not begun
	stop context.CancelFunc
}

// begin runs f, unless it still runs.
func (t *sideTask) begin(parent context.Context, timeout time.Duration, f func(context.Context)) {
	if t.done != nil {
		select {
		case <-t.done:
		default:
			return
		}
	}
	ctx, cancel := context.WithTimeout(parent, timeout)
	done := make(chan struct{})
	t.done, t.stop = done, cancel
	go func() {
		defer close(done)
		defer cancel()
		f(ctx)
	}()
}

// end stops it and waits for it.
func (t *sideTask) end() {
	if t.done != nil {
		t.stop()
		<-t.done
	}
}

// lookAtStandbys looks from time to time whether the stream is a synchronous standby. pg_stat_replication does not tell an
// ordinary role.
func (c *connection) lookAtStandbys(o *owner, now time.Time) {
	if now.Sub(c.lookedAt) < lookPause {
		return
	}
	c.lookedAt = now
	c.looking.begin(o.ctx, link.AskTimeout, func(ctx context.Context) {
		conn, err := c.DialOrdinary(ctx)
		if err != nil {
			return
		}
		defer conn.Close(ctx)
		rows, err := session.Query(ctx, conn, "SHOW synchronous_standby_names")
		if err == nil && len(rows) == 1 && c.synchronous.Swap(begin.NamesStandby(rows[0][0], c.Config.RuntimeParams["application_name"])) != c.synchronous.Load() {
			o.interrupt()
		}
	})
}
