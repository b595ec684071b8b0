package begin

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// How a stream begins behind a checkpoint.
//
// The slot never confirms more than what is stored: a keepalive's position is not confirmed by itself, but delivered as a
// Progress. So a slot that has confirmed more than the checkpoint proves a loss, in every process. For the same reason the
// slot is made only after the first checkpoint is stored.

// beginAnew decides what a missing slot means.
func (a *attempt) beginAnew(ctx context.Context) error {
	name := a.Slot.Name
	slot, err := slots.Read(ctx, a.c.Query, name)
	if err != nil || slot != nil {
		return err
	}
	if a.given, err = a.Consumer.Checkpoint(a.ctx); err != nil {
		return err
	}
	if slot, err = slots.Read(a.ctx, a.c.Query, name); err != nil || slot != nil {
		return err // another process has made it meanwhile
	}
	if err := a.checkSource(&a.given); err != nil {
		return err
	}
	rows := a.Snapshot.Due
	if err := missingBehind(name, &a.given, rows); err != nil {
		return err
	}
	if !rows && !a.Create {
		return slots.Missing(name, nil)
	}
	a.is.Snapshot.Due, a.is.Snapshot.Bare = true, !rows
	return nil
}

// checkSource fails for a checkpoint of another cluster, database or slot.
func (a *attempt) checkSource(cp *resume.Checkpoint) error {
	return a.source().check(cp, a.isUpgraded(cp))
}

func (a *attempt) source() Source {
	o := &a.is.Origin
	return Source{o.SystemID, o.Database, o.Slot}
}

// isUpgraded says whether the checkpoint is of the cluster before pg_upgrade, and counts.
func (a *attempt) isUpgraded(cp *resume.Checkpoint) bool {
	from := a.source()
	from.SystemID = a.Consumer.UpgradedFrom
	return from.SystemID != "" && SourceOf(cp) == from && from != a.source()
}

// continueCheckpoint begins behind the checkpoint of the consumer. The slot is taken first, and then the consumer is asked: the
// process that had the slot before may have stored more until then.
func (a *attempt) continueCheckpoint(ctx context.Context) error {
	from, err := a.beginning()
	if err != nil {
		return err
	}
	if err := a.launch(ctx, from); err != nil {
		return err
	}
	var cp resume.Checkpoint
	err = a.meanwhile(func() (err error) {
		cp, err = a.Consumer.Checkpoint(a.ctx)
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := Soon(a.ctx, a.c)
	defer cancel()
	p, err := a.pastOf(ctx, &cp)
	if err != nil {
		return err
	}
	if p.Bound, err = p.Check(&a.is.Remote); err != nil {
		return err
	}
	p.Bound = max(p.Bound, a.From) // a person has accepted the gap; it may lie behind a fail-over
	return a.examine(ctx, p, from)
}

// pastOf returns what the checkpoint says of the past.
func (a *attempt) pastOf(ctx context.Context, cp *resume.Checkpoint) (Past, error) {
	p := Past{Origin: cp.Origin, Point: cp.Point, Bound: max(cp.Through, a.From)}
	if err := a.checkSource(cp); err != nil {
		return p, err
	}
	isZero := *cp == (resume.Checkpoint{})
	switch {
	case isZero && a.From == 0:
		return p, slots.WithoutCheckpoint(a.Slot.Name, a.confirmed)
	case isZero:
		p.Origin, p.Through = a.is.Origin, a.From
	case p.IsBare():
		p.Bound = ^wal.LSN(0)
		a.Log.Info("the consumer has a position that an older version has stored: it is trusted, and replaced by a checkpoint", "slot", a.Slot.Name, "position", p.Position())
	case a.isUpgraded(cp):
		err := checkUpgraded(ctx, p.Point, a.confirmed, func() (*pgconn.PgConn, error) { return a.c.DialBeside(ctx, true) })
		return Past{Origin: a.is.Origin, Point: resume.Point{Through: a.confirmed}, Bound: a.confirmed}, err
	}
	return p, nil
}

// continueStream goes on where the lost connection has ended.
func (a *attempt) continueStream(ctx context.Context) error {
	lost, p := a.Lost, a.Lost.Past
	bound, err := p.Check(&a.is.Remote)
	if err != nil {
		return err
	}
	if timeline, was := a.is.System.Timeline, lost.Remote.System.Timeline; bound < p.Bound || timeline != was {
		a.Log.Info("the server is on a new timeline, or lacks WAL that was confirmed; what was delivered it may have", "slot", a.Slot.Name,
			"timeline", timeline, "was", was, "same_until", bound.String(), "delivered", lost.Certain.String())
	}
	p.Bound = bound
	// Not the position that was acknowledged last: a keepalive's may belong to another history, which has something else there.
	from := min(lost.Acknowledged, max(lost.Certain, p.Commit))
	if p.HasTransaction() {
		from = min(from, p.Commit)
	}
	if err := a.launch(ctx, from); err != nil {
		return err
	}
	return a.examine(ctx, p, from)
}
