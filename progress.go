package walchan

import (
	"time"

	"github.com/walchan/walchan/internal/feed"
)

// With checkpoints a keepalive's position is not confirmed by itself, because nothing that is stored covers it. A Progress carries
// it, and its checkpoint is stored like any other. Progress is rare: a target in the same cluster would otherwise feed itself with
// WAL. But a server that is stopping waits for us, and so does a COMMIT if the stream is a synchronous standby.
const (
	progressBytes = 16 << 20    // a slot keeps WAL in segments, which are usually that large
	progressPause = time.Second // between two of them
	quietBytes    = 64 << 10    // are enough after quietPause: more than what storing a checkpoint writes, and little enough that the
	quietPause    = time.Minute // slot does not stand still where a standby is to get a copy of it (sync_replication_slots)
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
	look := c.LookAtStandbys(o.ctx, now, o.interrupt)
	ahead, next := c.ahead-last, c.progressAt.Add(progressPause)
	if ahead < progressBytes {
		next = latest(c.progressAt, c.Status.Since).Add(quietPause)
	}
	switch {
	case o.ledger.Outstanding() > 0 && ahead < progressBytes:
		return later, nil // an acknowledgement comes first, and wakes the owner
	case c.Shutdown.IsNoticed(), c.IsSynchronous():
	case ahead < quietBytes:
		return look, nil
	case now.Before(next):
		return earliest(next, look), nil
	}
	c.progressAt = now
	return later, o.deliverProgress(c, o.feed.(*feed.Changes))
}

func (o *owner) deliverProgress(c *connection, f *feed.Changes) error {
	at := f.Here()
	at.Through = max(at.Through, c.ahead)
	if err := o.deliver(&Message{Kind: Progress, LSN: c.ahead, sent: c.frame.SentAt, ext: at}); err != nil {
		return err
	}
	f.Moved(at.Point)
	o.ledger.MarkAt(at)
	return nil
}

// reachEnd takes a stream that has come to its end (WithUntil) beyond changes that nobody was sent: the next process begins there.
func (o *owner) reachEnd(c *connection) error {
	f, ok := o.feed.(*feed.Changes)
	if !ok || !f.TakesProgress() || o.until == never || o.until <= o.ledger.Last() {
		return errEnded
	}
	c.ahead = o.until
	if err := o.deliverProgress(c, f); err != nil {
		return err
	}
	return errEnded
}
