// Package session is one replication connection: dialling, commands, the frames of the stream, status, and the end.
// It knows the protocol of the walsender (PostgreSQL documentation, "Streaming Replication Protocol") and nothing of
// what the stream carries. It is used by one goroutine; only Interrupt may be called from others.
package session

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// LSN is a position in the write-ahead log.
type LSN = pglogrepl.LSN

// ErrServerStopped says that the server ended the stream by itself, as one that shuts down does: with CommandComplete or
// CopyDone in place of data.
var ErrServerStopped = errors.New("the server ended the stream")

// ErrCopyDone is ErrServerStopped by CopyDone. A physical stream ends so at the end of its timeline: Finish then answers it.
var ErrCopyDone = fmt.Errorf("%w with CopyDone", ErrServerStopped)

// writeTimeout bounds the writing of a few bytes: it passes only on a connection that is dead.
const writeTimeout = 10 * time.Second

// releaseTimeout is for the server to release the slot once it has answered CopyDone. In the middle of a large transaction that
// could take minutes; hanging up ends it.
const releaseTimeout = 500 * time.Millisecond

// Conn is a replication connection.
type Conn struct {
	pg  *pgconn.PgConn
	net net.Conn
	in  *reader
	out []byte // scratch

	unix    bool
	gathers bool // see Gather

	notice  func(*pgconn.Notice)
	refusal error // see Refuse

	serverDone bool // the server has answered our CopyDone, thus read every status before it
}

// Dial connects to the database of cfg for logical replication. It changes cfg.
func Dial(ctx context.Context, cfg *pgconn.Config) (*Conn, error) {
	return dial(ctx, cfg, printing(map[string]string{"replication": "database"}))
}

// DialPhysical connects for physical replication: to no database, so that there is no SQL. It changes cfg.
func DialPhysical(ctx context.Context, cfg *pgconn.Config) (*Conn, error) {
	return dial(ctx, cfg, map[string]string{"replication": "true"})
}

func dial(ctx context.Context, cfg *pgconn.Config, params map[string]string) (*Conn, error) {
	c := &Conn{notice: func(*pgconn.Notice) {}}
	if cfg.RuntimeParams == nil {
		cfg.RuntimeParams = make(map[string]string)
	}
	for k, v := range params {
		for have := range cfg.RuntimeParams {
			if strings.EqualFold(have, k) {
				delete(cfg.RuntimeParams, have)
			}
		}
		cfg.RuntimeParams[k] = v
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		c.in = &reader{src: r} // one for each host that is tried; the last is the connection's
		return pgproto3.NewFrontend(c.in, w)
	}
	var below *ahead // of each host that is tried, like the reader
	encrypted, dial := usesTLS(cfg), cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if network == "unix" {
			return unpolled(nc)
		}
		if encrypted {
			below = readAhead(nc)
			return below, nil
		}
		return nc, nil
	}
	if cfg.OnNotice != nil {
		c.notice = func(n *pgconn.Notice) { cfg.OnNotice(c.pg, n) }
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c.pg, c.net = pg, pg.Conn()
	c.unix = c.net.RemoteAddr().Network() == "unix"
	if _, ok := c.net.(*tls.Conn); ok {
		c.in.more = below.holdsRecord
	}
	return c, nil
}

func usesTLS(cfg *pgconn.Config) bool {
	return cfg.TLSConfig != nil || slices.ContainsFunc(cfg.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig != nil })
}

// PID returns the process ID of the walsender.
func (c *Conn) PID() uint32 { return c.pg.PID() }

// RemoteAddr returns the address of the server.
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

// Version returns the server's version number as server_version_num has it (150004), and as text ("15.4"). 0: not known.
func (c *Conn) Version() (int, string) {
	s := c.pg.ParameterStatus("server_version")
	return ParseVersion(s), s
}

// Encoding returns the encoding of the database.
func (c *Conn) Encoding() string { return c.pg.ParameterStatus("server_encoding") }

// ParseVersion turns server_version ("15.4 (Debian …)", "17beta1") into server_version_num; 0 if it is none.
func ParseVersion(s string) int {
	s, _, _ = strings.Cut(s, " ")
	major, rest, _ := strings.Cut(s, ".")
	if i := strings.IndexFunc(major, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		major, rest = major[:i], ""
	}
	a, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	b, _ := strconv.Atoi(rest)
	return a*10000 + b
}

// System is the answer to IDENTIFY_SYSTEM.
type System struct {
	ID       string
	Timeline int32
	Flushed  LSN // current WAL flush position
	Database string
}

// Identify asks which cluster this is.
func (c *Conn) Identify(ctx context.Context) (System, error) {
	r, err := pglogrepl.IdentifySystem(ctx, c.pg)
	return System{r.SystemID, r.Timeline, r.XLogPos, r.DBName}, err
}

// TimelineHistory returns the content of the history file of a timeline. Timeline 1 has none.
func (c *Conn) TimelineHistory(ctx context.Context, timeline int32) (string, error) {
	r, err := pglogrepl.TimelineHistory(ctx, c.pg, timeline)
	return string(r.Content), err
}

// Query runs one statement in the simple protocol and returns its rows as text; NULL is "".
func (c *Conn) Query(ctx context.Context, sql string) ([][]string, error) {
	return Query(ctx, c.pg, sql)
}

// Query is Conn.Query on any connection.
func Query(ctx context.Context, pg *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, r := range results {
		for _, row := range r.Rows {
			rows = append(rows, text(row))
		}
	}
	return rows, nil
}

// Start sends a START_REPLICATION command and returns once the stream has begun.
func (c *Conn) Start(ctx context.Context, command string) error {
	c.pg.Frontend().SendQuery(&pgproto3.Query{String: command})
	if err := c.pg.Frontend().Flush(); err != nil {
		return err
	}
	var refused error
	for {
		msg, err := c.pg.ReceiveMessage(ctx)
		if err != nil {
			c.net.Close() // the stream may begin yet: this is no connection for commands any more
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return c.net.SetDeadline(time.Time{})
		case *pgproto3.ErrorResponse:
			refused = pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.ReadyForQuery:
			if refused == nil {
				refused = fmt.Errorf("no stream after START_REPLICATION")
			}
			return refused
		}
	}
}

// Fill reads once from the server, and returns os.ErrDeadlineExceeded at the deadline or when interrupted.
func (c *Conn) Fill() error {
	if c.gathers && c.unix {
		nap()
	}
	return c.in.fill()
}

// heap is how many bytes are worth being woken for while messages are let pile up: some hundred small ones. As many small
// segments fill the window of a TCP connection, and behind a full window the server's kernel puts many messages into one.
const heap = 64 << 10

// Gather has Fill wait until many bytes have come, or until the deadline, where it would return at the first. What was there
// before the deadline is read by the Fill after it. On a Unix socket, for which the kernel cannot do that, Fill takes a nap of a
// fifth of a millisecond before it reads. All that is for Linux; elsewhere Fill stays as it is.
func (c *Conn) Gather(on bool) {
	if on == c.gathers {
		return
	}
	c.gathers = on
	if on {
		setLowWater(c.net, heap)
	} else {
		setLowWater(c.net, 1)
	}
}

// Arm sets the deadline of Fill.
func (c *Conn) Arm(t time.Time) error { return c.net.SetReadDeadline(t) }

// Interrupt ends a Fill, from any goroutine. The deadline stays in the past until Arm.
func (c *Conn) Interrupt() { c.net.SetReadDeadline(time.Unix(1, 0)) }

// Status tells the server how far the stream was received (write) and acknowledged (flush, apply). None may be 0 unless
// all are: PostgreSQL takes 0 as "no news".
func (c *Conn) Status(write, flush LSN, now time.Time, replyRequested bool) error {
	const size = 34
	b := append(c.out[:0], 'd', 0, 0, 0, 4+size, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(write))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMicro()-946_684_800_000_000))
	reply := byte(0)
	if replyRequested {
		reply = 1
	}
	c.out = append(b, reply)
	return c.write(c.out, now.Add(writeTimeout))
}

func (c *Conn) write(b []byte, deadline time.Time) error {
	if err := c.net.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := c.net.Write(b)
	return err
}

// Finish ends the stream: it sends CopyDone and reads on until the server has answered or the deadline has passed. nil
// means that the server has taken in every status sent before, and, unless it is in the middle of a large transaction, that
// it has released the slot.
func (c *Conn) Finish(deadline time.Time) error {
	if c.serverDone {
		return ErrServerStopped
	}
	c.Gather(false) // the answer is short
	if err := c.write([]byte{'c', 0, 0, 0, 4}, deadline); err != nil {
		return err
	}
	err := c.finished(deadline)
	if c.serverDone {
		return nil
	}
	return err
}

// finished reads until the server has released the slot. The server answers CopyDone at once, goes on sending the transaction
// it is at, releases the slot, and sends CommandComplete (StartLogicalReplication in src/backend/replication/walsender.c).
func (c *Conn) finished(deadline time.Time) error {
	for {
		kind, body, ok, err := c.in.frame()
		switch {
		case err != nil:
			return err
		case !ok:
			if err := c.fillBefore(deadline); err != nil {
				return err
			}
		case kind == 'c':
			c.serverDone = true
			if soon := time.Now().Add(releaseTimeout); soon.Before(deadline) {
				deadline = soon
			}
		case kind == 'C', kind == 'Z':
			c.serverDone = true
			return nil
		case kind == 'E':
			return c.other(kind, body)
		}
	}
}

// fillBefore is Fill, but for Interrupt.
func (c *Conn) fillBefore(deadline time.Time) error {
	for {
		// Again and again, for a late Interrupt may have moved it.
		if err := c.net.SetReadDeadline(deadline); err != nil {
			return err
		}
		err := c.in.fill()
		if !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(deadline) {
			return err
		}
	}
}

// Close closes the connection, after a Terminate where it still can be sent. A command whose context has ended is cancelled
// on the server: for that it waits, within a second.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.pg.Close(ctx)
	select {
	case <-c.pg.CleanupDone():
	case <-ctx.Done():
		c.net.Close() // or pgx would read on from a dead connection for 15 s
	}
}
