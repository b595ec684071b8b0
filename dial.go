package walchan

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"

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
	conn, err := dial.Parse(cfg.connString)
	if err != nil {
		return nil, fmt.Errorf("walchan: %w", err) // it was right once: a file is missing, which may come back
	}
	if err := cfg.connect(ctx, conn); err != nil {
		return nil, fmt.Errorf("walchan: prepare the connection: %w", err)
	}
	c := &connection{succession: newSuccession()}
	notice := conn.OnNotice
	if notice == nil {
		notice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			level := slog.LevelInfo
			if n.SeverityUnlocalized == "WARNING" {
				level = slog.LevelWarn
			}
			cfg.log.Log(ctx, level, "notice from the server", "slot", slot, "severity", n.Severity, "code", n.Code, "message", n.Message)
		}
	}
	conn.OnNotice = func(pg *pgconn.PgConn, n *pgconn.Notice) {
		c.noticed(cfg, n)
		notice(pg, n)
	}
	if cfg.physical {
		conn.RuntimeParams["replication"] = "true" // for its probes, too: pg_hba.conf may let them in for nothing else
	}
	c.Config = conn.Copy()
	var reached atomic.Pointer[string] // pgx dials to cancel a statement, too, at any time
	conn.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		reached.Store(&address) // the last one is the one that was reached
		return c.Config.DialFunc(ctx, network, address)
	}
	dialSession := session.Dial
	if cfg.physical {
		dialSession = session.DialPhysical
	}
	if c.Conn, err = dialSession(ctx, conn); err != nil {
		return nil, dial.Error(err, conn)
	}
	c.Address = *reached.Load()
	return c, nil
}
