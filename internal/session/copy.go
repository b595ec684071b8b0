package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// DialOrdinary makes a connection that is not for replication, but prints values as one of Dial does. It changes cfg.
func DialOrdinary(ctx context.Context, cfg *pgconn.Config) (*Conn, error) {
	return dial(ctx, cfg, printing(map[string]string{"replication": "false"}))
}

// printing adds to start-up parameters those that decide how values are printed, by output plugins and COPY. They override what
// the options parameter, the role and the database set (src/backend/utils/init/postinit.c, process_startup_options).
func printing(params map[string]string) map[string]string {
	for k, v := range map[string]string{
		"client_encoding":    "UTF8",
		"DateStyle":          "ISO",
		"IntervalStyle":      "postgres",
		"bytea_output":       "hex",
		"extra_float_digits": "1",
	} {
		params[k] = v
	}
	return params
}

// NoTimeouts is SQL that lets a session wait for as long as it takes. lock_timeout too: what a snapshot waits for is the end of an ALTER
// TABLE.
func NoTimeouts(version int) string {
	sql := "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0"
	if version >= 170000 {
		sql += "; SET transaction_timeout = 0"
	}
	return sql
}

// PG returns the connection as pgx has it, for queries.
func (c *Conn) PG() *pgconn.PgConn { return c.pg }

// KeepAlive has the system notice within a minute or so that the other end is gone of a connection over which nothing may be sent for
// hours, and a firewall between not forget it.
func (c *Conn) KeepAlive() {
	conn := c.net
	for { // TLS, and what reads below it
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	}
}

// Check returns an error if the connection is known to be broken. It sends nothing, and must not be called while it streams.
func (c *Conn) Check() error {
	// A deadline in the past would not look at all.
	if err := c.net.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return err
	}
	defer c.net.SetReadDeadline(time.Time{})
	if err := c.in.fill(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	for {
		kind, body, ok, err := c.in.frame()
		if !ok || err != nil {
			return err
		}
		if err := c.other(kind, body); err != nil {
			return err
		}
	}
}

// Copy runs a COPY … TO STDOUT and calls data with what each CopyData carries, which is valid until it returns, and pause
// before it waits for more. An error of these, and the end of ctx, leave the connection unusable: close it.
func (c *Conn) Copy(ctx context.Context, sql string, data func([]byte) error, pause func() error) error {
	// By hand, for pgx reads in small pieces and has a writer called with each.
	c.pg.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if err := c.pg.Frontend().Flush(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.Interrupt)
	defer stop()
	defer c.Gather(false)
	var refused error
	for {
		kind, body, ok, err := c.in.frame()
		switch {
		case err != nil:
			return err
		case !ok:
			if err := pause(); err != nil {
				return err
			}
			if err := c.fillMuch(ctx); err != nil {
				return err
			}
		case kind == 'd':
			if err := data(body); err != nil {
				return err
			}
		case kind == 'E':
			var msg pgproto3.ErrorResponse
			if err := msg.Decode(body); err != nil {
				return fmt.Errorf("malformed ErrorResponse: %w", err)
			}
			refused = pgconn.ErrorResponseToPgError(&msg)
			if refused.(*pgconn.PgError).Severity == "FATAL" {
				return refused
			}
		case kind == 'Z':
			if err := c.Arm(time.Time{}); err != nil { // or the next command would have the deadline of the last Fill
				return err
			}
			return refused
		}
	}
}

// fillMuch reads once, when many bytes have come or after a moment, whatever there is.
func (c *Conn) fillMuch(ctx context.Context) error {
	const moment = 3 * time.Millisecond
	var err error
	for _, deadline := range []time.Time{time.Now().Add(moment), {}} {
		c.Gather(!deadline.IsZero())
		if err := c.Arm(deadline); err != nil {
			return err
		}
		if ctx.Err() != nil { // Arm may have undone its Interrupt
			return context.Cause(ctx)
		}
		if err = c.Fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
