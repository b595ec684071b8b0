package walchan

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/slots"
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
			answer, err = o.ask(ctx, c, t.Past)
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
		"slot", o.source.Slot, "xid", t.XID, "commit", t.Commit)
	return nil
}

// examine finds out, now that the slot is held, whether the server's history is that of p. start is where the stream was to begin.
func (o *owner) examine(ctx context.Context, c *connection, p begin.Past, start LSN) error {
	same := p.Started != 0 && p.Started == c.origin.Started
	var side *pgconn.PgConn
	var slot *slots.Row
	err := o.meanwhile(c, func() (err error) {
		if side, err = c.DialBeside(ctx, same); err == nil {
			slot, err = slots.Read(ctx, slots.Over(side), o.source.Slot)
		}
		return err
	})
	if side != nil {
		defer side.Close(context.WithoutCancel(ctx))
	}
	switch {
	case err != nil:
		return err
	case slot == nil:
		return o.slotOn(c).Missing(nil)
	}
	if slot.Confirmed > p.Bound {
		return p.Moved(o.source.Slot, slot.Confirmed)
	}
	c.status.Told, c.limit, o.known, o.told = slot.Confirmed, slot.Confirmed, slot.Confirmed, p.Bound
	c.from = max(start, slot.Confirmed)
	c.received = max(c.received, c.from)
	f, _ := o.feed.(*feed.Changes)
	if f != nil {
		f.Try(nil)
	}
	switch resume.Next(p.Point, c.from, same) {
	case resume.Expect:
		f.Try(&feed.Trial{Past: p, Proven: same})
		if same {
			o.accept(c, sameServer)
		}
		return nil
	case resume.Deliver:
		o.accept(c, sameServer)
		return nil
	}
	var answer begin.Answer
	err = o.meanwhile(c, func() (err error) {
		answer, err = c.hasTransaction(ctx, side, p.Point)
		return err
	})
	if err != nil {
		return err
	}
	verdict, err := p.Judge(answer, slot.Confirmed, o.cfg.checkpoints, o.cfg.proof == proofRequired)
	if err != nil {
		return err
	}
	o.heed(c, verdict)
	return nil
}

const sameServer = "the server has not been restarted"

// heed goes on as the verdict says.
func (o *owner) heed(c *connection, v begin.Verdict) {
	if v.Doubt {
		o.doubt(c, v.By)
	} else {
		o.accept(c, v.By)
	}
}

// accept ends the trial of a connection. From now on the server hears what is confirmed, except positions that only another server
// has reported.
func (o *owner) accept(c *connection, by string) {
	if by != sameServer {
		o.rewind(c)
		o.cfg.log.Info("the server has the history of what was delivered", "slot", o.source.Slot, "from", c.from, "because", by)
	}
	c.limit = never
}

// doubt goes on without a proof.
func (o *owner) doubt(c *connection, why string) {
	o.rewind(c)
	c.limit = never
	o.gauge.unproven.Store(true)
	o.cfg.log.Warn("nothing proves that the server has the history of what was delivered, and nothing disproves it: going on (see WithProof)",
		"slot", o.source.Slot, "from", c.from, "why", why)
}

// rewind forgets positions that may belong to another history.
func (o *owner) rewind(c *connection) {
	o.publish(c) // first: Stats must not say that more is confirmed than acknowledged
	o.ledger.Rewind(max(c.limit, o.certain()))
	if f, ok := o.feed.(*feed.Changes); ok {
		f.Rewind(c.limit)
	}
}

// certain is the highest position that lies in the history of what was delivered for certain. A keepalive's position may not.
func (o *owner) certain() LSN {
	if f, ok := o.feed.(*feed.Changes); ok {
		return f.Certain()
	}
	return o.feed.Delivered().Through
}

// ask is hasTransaction over a new connection.
func (o *owner) ask(ctx context.Context, c *connection, p begin.Past) (begin.Answer, error) {
	side, err := c.DialBeside(ctx, false)
	if err != nil {
		return begin.Answer{}, err
	}
	defer side.Close(context.WithoutCancel(ctx))
	return c.hasTransaction(ctx, side, p.Point)
}

// hasTransaction asks whether the server has the last transaction. Afterwards side can only be closed.
func (c *connection) hasTransaction(ctx context.Context, side *pgconn.PgConn, p resume.Point) (begin.Answer, error) {
	return begin.HasTransaction(ctx, side, p, resume.TimelineAt(p.Commit, c.history, c.timeline))
}
