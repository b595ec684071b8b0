// Package backfill reads the rows that exist of a table while its changes come by.
//
// A table is read in pieces, in the order of its key, while the stream goes on. When a piece is read, a mark is written into the
// log. Where the stream comes to the mark, the piece is delivered, without the rows of which the stream has a newer version. The idea
// is that of "DBLog" (Andreakis and Papapanagiotou: A Watermark Based Change-Data-Capture Framework, 2020).
//
// Positions do not tell which rows those are. Others see a transaction only some time after its commit record is written (a synchronous
// commit waits in between). So a piece may lack a change that lies before its mark. Each piece knows the database's snapshot at which it
// was read: changes of transactions that this did not see are newer. The first piece must see what was committed before the notes of
// changes begin. So it waits until the transactions that are running have ended.
//
// An UPDATE comes without the large values it leaves alone. A consumer that does not have the row yet would never see them: then
// the row is read once more.
package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/snapshot"
	"github.com/walchan/walchan/internal/tables"
	"github.com/walchan/walchan/internal/value"
	"github.com/walchan/walchan/walerr"
)

// Prefix is that of the marks.
const Prefix = "walchan.ReadRows"

// Request says what is to be read.
type Request struct {
	Table        tables.Choice
	After        []string // values of the key, behind which it begins; nil: at the beginning
	Publications []string
	Types        *value.Types // learns those of the columns
	Slot         string       // for the log
	Log          *slog.Logger
	Retry        func() backoff.BackOff // for a connection that is lost

	// Connection returns the connection over which the changes come; false: there will be none any more.
	Connection func() (Connection, bool)

	// Described is called when the table is described, and again after it was altered. From the first call on the Notes must be given the
	// changes.
	Described func(*snapshot.Table, *Notes) error
}

// Connection is what is known of one over which changes come.
type Connection struct {
	Life   context.Context       // ends with it
	Next   <-chan struct{}       // closed when there is another one
	Server func() *pgconn.Config // for ordinary connections to its server
}

// reader reads a table. It belongs to one goroutine.
type reader struct {
	request Request
	notes   *Notes
	id      string     // of its marks
	base    Connection // when conn was made
	conn    *session.Conn
	lookAt  time.Time // when to look again whether the server is stopping
	target  target
	altered bool // it has to be described again

	settled   bool
	place     place
	again     []string // keys of rows to be read once more
	pieces    int      // read
	delivered int      // of them
	pending   *Piece   // read and not delivered
}

// place is how far the reading is.
type place struct {
	after     []string // key of the last row
	exhausted bool     // there are no more
	size      int      // rows of the next piece
}

// Run reads all there is, over as many connections as it takes. It returns when all is delivered.
func Run(ctx context.Context, r Request) error {
	x := &reader{request: r, notes: &Notes{}, id: fmt.Sprintf("%x", rand.Uint64()), place: place{after: r.After, size: firstRows}}
	defer x.close()
	return x.run(ctx)
}

func (x *reader) run(ctx context.Context) error {
	delays := x.request.Retry()
	delays.Reset()
	for {
		before := x.delivered
		err := x.read(ctx)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if pgfail.IsPermanent(err) {
			return err
		}
		x.close()
		if x.base.Life.Err() != nil || errors.Is(err, errStopping) {
			if !x.follow(ctx) {
				return ctx.Err()
			}
			delays.Reset()
			continue
		}
		if x.delivered > before {
			delays.Reset()
		}
		delay := delays.NextBackOff()
		if delay < 0 {
			return err
		}
		x.request.Log.Warn("reading rows is interrupted, trying again", "slot", x.request.Slot, "table", x.request.Table.Name, "delay", delay.Round(time.Millisecond), "error", err)
		if !link.Sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

// follow waits until the stream is connected again.
func (x *reader) follow(ctx context.Context) bool {
	x.request.Log.Info("reading rows pauses until the stream is connected again", "slot", x.request.Slot)
	select {
	case <-x.base.Next:
		return true
	case <-ctx.Done():
		return false
	}
}

func (x *reader) close() {
	if x.conn != nil {
		x.conn.Close()
		x.conn = nil
	}
}

// read goes on where it was, over one connection, which ends with that of the stream.
func (x *reader) read(ctx context.Context) error {
	base, ok := x.request.Connection()
	if !ok {
		return walerr.Closed
	}
	x.base = base
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.base.Life, cancel)()
	if err := x.connect(ctx); err != nil {
		return err
	}
	// Read over a connection that was lost: perhaps from a server that has failed over, and had rows that the new one does not.
	if p := x.pending; p != nil && p.taken.CompareAndSwap(false, true) {
		x.pending = nil
	}
	if x.target.Table == nil || x.altered {
		if err := x.describe(ctx); err != nil {
			return err
		}
		x.altered = false
	}
	if !x.settled {
		if err := x.settle(ctx); err != nil {
			return err
		}
		x.settled = true
	}
	for {
		if err := x.checkStopping(ctx); err != nil {
			return err
		}
		if x.pending == nil {
			p, err := x.readPiece(ctx)
			if err != nil {
				x.altered = true // perhaps
				return snapshot.ReadError(x.target.String(), err)
			}
			x.notes.seen.Store(&p.at)
			x.pending = p
			x.notes.piece.Store(p)
		}
		p := x.pending
		// Once more, if the connection broke: a mark without its piece does nothing.
		if _, err := x.conn.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)", pgsql.Literal(Prefix), pgsql.Literal(p.mark))); err != nil {
			return pgfail.Failed("write a mark into the log", err)
		}
		if err := x.await(ctx, p); err != nil {
			return err
		}
		x.pending, x.again = nil, p.again
		x.delivered++
		x.place = p.end
		if p.IsLast() {
			return nil
		}
	}
}

// await waits until the piece is delivered, or the connection breaks: then its mark may be lost, too.
func (x *reader) await(ctx context.Context, p *Piece) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := x.conn.Check(); err != nil {
				return pgfail.Failed("read the table", err)
			}
			if err := x.checkStopping(ctx); err != nil {
				return err
			}
		}
	}
}

// checkEvery is how often it is looked whether the connection is broken.
const checkEvery = time.Second

// stopCheck is how often it is looked whether the server is stopping, which says so to nobody but those who connect.
const stopCheck = 5 * time.Second

var errStopping = errors.New("walchan: the server is stopping")

func (x *reader) checkStopping(ctx context.Context) error {
	now := time.Now()
	if now.Before(x.lookAt) {
		return nil
	}
	x.lookAt = now.Add(stopCheck)
	if dial.IsStopping(ctx, x.base.Server()) {
		return errStopping
	}
	return nil
}

func (x *reader) connect(ctx context.Context) error {
	x.lookAt = time.Now().Add(stopCheck)
	cfg := x.base.Server()
	conn, err := session.DialOrdinary(ctx, cfg)
	if err != nil {
		return dial.Error(err, cfg)
	}
	x.conn = conn
	conn.KeepAlive()
	version, _ := conn.Version()
	// A mark is in the log when its transaction is committed. A commit must not wait for standbys, of which this stream may be one.
	if _, err := conn.Query(ctx, session.NoTimeouts(version)+"; SET row_security = off; SET synchronous_commit = local"); err != nil {
		return pgfail.Failed("set the time-outs", err)
	}
	return nil
}

// settle waits until all transactions have ended that are running now. They may have made changes before the table was published:
// the stream does not have those. Others the stream may have delivered before the notes of changes begin.
func (x *reader) settle(ctx context.Context) error {
	rows, err := x.conn.Query(ctx, "SELECT pg_catalog.pg_current_xact_id()")
	if err != nil || len(rows) != 1 {
		return pgfail.Failed("begin to read the table", err)
	}
	last, err := strconv.ParseUint(rows[0][0], 10, 64)
	if err != nil {
		return pgfail.Failed("begin to read the table", err)
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		v, err := x.look(ctx)
		if err != nil {
			return err
		}
		x.notes.seen.Store(&v)
		if v.min > last {
			return nil
		}
		if err := x.checkStopping(ctx); err != nil {
			return err
		}
		if !link.Sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// look returns what is visible now.
func (x *reader) look(ctx context.Context) (v visibility, err error) {
	rows, err := x.conn.Query(ctx, "SELECT pg_catalog.pg_current_snapshot()")
	if err != nil || len(rows) != 1 {
		return v, pgfail.Failed("look which transactions are running", err)
	}
	return parseVisibility(rows[0][0])
}
