package walchan

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

// open makes a connection that streams: the first one, or one that goes on where lost has ended.
func (o *owner) open(lost *connection) (*connection, error) {
	c, err := o.cfg.dial(o.ctx, o.source.Slot)
	if err != nil {
		return nil, err
	}
	if err := o.start(c, lost); err != nil {
		if c.made {
			if !c.Status.Since.IsZero() {
				c.Close() // it streams already, and takes no commands
			}
			c.ClearAway(o.cfg.log, o.source.Slot, slots.MadeByUs)
		}
		c.hangUp()
		return nil, err
	}
	return c, nil
}

// dial connects, with a configuration that is read anew (pgpass, certificates) and that the user may change. slot is for the
// log.
func (cfg *config) dial(ctx context.Context, slot string) (*connection, error) {
	conn, err := dial.Prepare(ctx, cfg.connString, cfg.connect)
	if err != nil {
		return nil, err
	}
	c := &connection{succession: newSuccession()}
	dial.LogNotices(ctx, conn, cfg.log.With("slot", slot))
	notice := conn.OnNotice
	conn.OnNotice = func(pg *pgconn.PgConn, n *pgconn.Notice) {
		c.noticed(cfg, n)
		notice(pg, n)
	}
	dialSession := session.Dial
	if cfg.physical {
		conn.RuntimeParams["replication"] = "true" // for its probes, too: pg_hba.conf may let them in for nothing else
		dialSession = session.DialPhysical
	}
	reached := dial.Follow(conn)
	if c.Conn, err = dialSession(ctx, conn); err != nil {
		return nil, dial.Error(err, conn)
	}
	c.Reached = reached()
	return c, nil
}
