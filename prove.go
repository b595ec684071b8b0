package walchan

import (
	"cmp"
	"context"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/feed"
)

// A connection is on trial until its server is known to have the history of what the consumer has.
//
// The numbers of a position mean something else in another history: after a fail-over, a restore, a second promotion. Positions
// and timelines can show that (resume.Check), but they cannot show the opposite. So a proof is looked for. The slot is the
// first witness: see feed.Trial. Where the slot stands after the last transaction, the server is asked.
//
// Until then the server hears no position but the slot's own. A position of the other history could lie ahead of its WAL. The
// server would accept it, and would not send to the next connection what is written up to there.

// absent: the last transaction has not come, although the server must have sent it.
func (o *owner) absent(t *feed.Trial) error {
	c := o.conn.Load()
	if !t.Proven {
		var answer begin.Answer
		failed, err := o.await(func(ctx context.Context) (err error) {
			answer, err = c.HasTransaction(ctx, &c.Reached, t.Point)
			return err
		})
		if err := cmp.Or(err, failed); err != nil {
			return err
		}
		verdict, err := t.JudgeAbsent(answer, o.cfg.proof == proofWaived)
		if err != nil {
			return err
		}
		o.heed(c, verdict)
	}
	o.cfg.log.Warn("the last transaction that was delivered is no longer sent: is its table still published? The stream goes on after it",
		"slot", o.source.Slot, "xid", t.XID, "commit", t.Commit.String())
	return nil
}

// heed goes on as the verdict says.
func (o *owner) heed(c *connection, v begin.Verdict) {
	switch {
	case v.Same:
		c.Limit = never
	case v.Doubt:
		o.doubt(c, v.By)
	default:
		o.accept(c, v.By)
	}
}

// accept ends the trial of a connection. From now on the server hears what is confirmed, except positions that only another server
// has reported.
func (o *owner) accept(c *connection, by string) {
	o.rewind(c)
	c.Limit = never
	o.cfg.log.Info("the server has the history of what was delivered", "slot", o.source.Slot, "from", c.From.String(), "because", by)
}

// doubt goes on without a proof.
func (o *owner) doubt(c *connection, why string) {
	o.rewind(c)
	c.Limit = never
	o.gauge.unproven.Store(true)
	o.cfg.log.Warn("nothing proves that the server has the history of what was delivered, and nothing disproves it: going on (see WithProof)",
		"slot", o.source.Slot, "from", c.From.String(), "why", why)
}

// rewind forgets positions that may belong to another history.
func (o *owner) rewind(c *connection) {
	o.publish(c) // first: Stats must not say that more is confirmed than acknowledged
	o.ledger.Rewind(max(c.Limit, o.certain()))
	if f, ok := o.feed.(*feed.Changes); ok {
		f.Rewind(c.Limit)
	}
}

// certain is the highest position that lies in the history of what was delivered for certain. A keepalive's position may not.
func (o *owner) certain() LSN {
	if f, ok := o.feed.(*feed.Changes); ok {
		return f.Certain()
	}
	return o.feed.Delivered().Through
}
