package begin

import (
	"context"
	"fmt"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/tables"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// attempt is one attempt to begin.
type attempt struct {
	*Request
	c   *slots.Access
	ctx context.Context // the stream's; short questions get one that ends soon
	is  Started

	given     resume.Checkpoint // by the consumer, where the slot is yet to be made
	confirmed wal.LSN           // by the slot
	made      bool              // the slot was made
	streams   bool              // the connection takes no commands any more
}

// Begin has the server stream, or export a snapshot. If it fails, it leaves no slot that it has made.
func (r *Request) Begin(ctx context.Context, c *slots.Access) (Started, error) {
	a := &attempt{Request: r, c: c, ctx: ctx, is: Started{Snapshot: r.Snapshot}}
	err := a.begin()
	if err != nil && a.made {
		if a.streams {
			c.Close()
		}
		c.ClearAway(r.Log, r.Slot.Name, slots.MadeByUs)
	}
	return a.is, err
}

func (a *attempt) begin() error {
	ctx, cancel := Soon(a.ctx, a.c)
	defer func() { cancel() }()
	if err := a.identify(ctx); err != nil {
		return err
	}
	if err := tables.CheckPublications(ctx, a.c.Conn, a.Publications); err != nil {
		return err
	}
	if a.Lost == nil && a.Consumer != nil {
		if err := a.beginAnew(ctx); err != nil {
			return err
		}
		cancel()
		ctx, cancel = Soon(a.ctx, a.c) // the consumer may have taken its time
	}
	if a.is.Snapshot.Due {
		if exported, err := a.openSnapshot(ctx); exported || err != nil {
			return err
		}
	}
	if err := a.prepareSlot(ctx); err != nil {
		return err
	}
	if a.Lost == nil && a.Consumer == nil {
		from, err := a.beginning()
		if err != nil {
			return err
		}
		return a.launch(ctx, from)
	}
	var err error
	if a.is.History, err = TimelineHistory(ctx, a.c.Conn, a.is.System.Timeline); err != nil {
		return err
	}
	if a.Lost == nil {
		return a.continueCheckpoint(ctx)
	}
	return a.continueStream(ctx)
}

// Soon returns a context for a few questions and another connection, which are no more than connecting twice. A server may stop answering
// here as everywhere. Only the making of a slot may take its time, and the consumer.
func Soon(ctx context.Context, c *slots.Access) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 2*c.Config.ConnectTimeout)
}

// identify asks which server this is.
func (a *attempt) identify(ctx context.Context) (err error) {
	is := &a.is
	// First whether it is in recovery, and then how far it is: a standby that is promoted between the two must not be taken
	// for a primary that lacks WAL.
	if is.Server, err = AskServer(ctx, a.c.Conn); err != nil {
		return err
	}
	is.Timers = is.Server.Timers(a.Timers, a.Log)
	if is.System, err = Identify(ctx, a.c.Conn); err != nil {
		return err
	}
	is.Origin = resume.Origin{SystemID: is.System.ID, Database: is.System.Database, Slot: a.Slot.Name, Started: is.Started}
	if a.Lost != nil {
		if was := a.Lost.Past.SystemID; is.System.ID != was {
			return Diverged(fmt.Sprintf("the server is another cluster: system identifier %s, not %s", is.System.ID, was))
		}
		is.Origin.Database = a.Lost.Past.Database
	}
	if !is.Standby {
		is.Origin.Timeline = is.System.Timeline
	}
	return nil
}

// beginning returns where a stream begins that has delivered nothing.
func (a *attempt) beginning() (wal.LSN, error) {
	if end := a.is.System.Flushed; a.From > end {
		return 0, &walerr.Error{Kind: walerr.Options, What: fmt.Sprintf("WithFrom(%s) lies ahead of the server's WAL, which ends at %s", a.From, end),
			Advice: "see whether the position is of this server (Stream.Source)"}
	}
	return max(a.confirmed, a.From), nil
}

// launch has the server stream from a position.
func (a *attempt) launch(ctx context.Context, from wal.LSN) error {
	if err := a.Stream(ctx, a.c, a.is.Standby, from); err != nil {
		return err
	}
	a.streams = true
	a.is.From, a.is.Told = from, a.confirmed // START_REPLICATION does not tell it; a COMMIT may be waiting to be told
	if a.Lost == nil {
		a.is.Told = from
	}
	return nil
}

// Stream has the server stream from a position. standby says that it is in recovery.
func (r *Request) Stream(ctx context.Context, c *slots.Access, standby bool, from wal.LSN) error {
	if err := c.Start(ctx, StartLogical(r.Slot.Name, from, r.Args)); err != nil {
		return r.refused(ctx, c.Query, standby, err)
	}
	return nil
}
