package walchan

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
)

// part is what one COPY reads: a table, or a range of its pages.
type part struct {
	table *source
	sql   string
	rows  int64  // handed over so far
	hash  uint64 // of these
}

var hashSeed = maphash.MakeSeed()

// batch is rows on their way to the owner.
type batch struct {
	part   *part
	rows   []string // row blocks
	bytes  int64    // as COPY has sent them
	readAt time.Time
	last   bool // of its part
}

// A batch ends when it is as large, or when there is nothing more to read for the moment and the owner has nothing to do. As many as twice the workers wait for
// the owner, beside those that the workers fill.
const (
	batchRows  = 256
	batchBytes = 64 << 10
)

// copiers are the workers that read the rows of a snapshot. They end when all parts are read, at the first failure, or with their
// context.
type copiers struct {
	stream   *Stream
	conn     *connection
	snapshot *snapshot
	taken    atomic.Int32
	batches  chan batch // never closed
	failed   chan error // 1; the first failure
}

func (r *copiers) work(ctx context.Context) {
	w := &copier{copiers: r}
	defer w.close()
	for ctx.Err() == nil {
		n := int(r.taken.Add(1)) - 1
		if n >= len(r.snapshot.parts) {
			return
		}
		if err := w.read(ctx, r.snapshot.parts[n]); err != nil {
			if ctx.Err() == nil {
				select {
				case r.failed <- err:
					r.stream.wake()
				default:
				}
			}
			return
		}
	}
}

// copier is one of them.
type copier struct {
	*copiers
	conn *session.Conn // nil: none
}

func (w *copier) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// read reads a part. If the connection breaks it goes on over another one: a snapshot shows the same rows in the same order, and a hash
// tells if it does not, for a condition of the user's can have the server read otherwise.
func (w *copier) read(ctx context.Context, p *part) error {
	delays := w.stream.cfg.retry()
	delays.Reset()
	for {
		err := w.try(ctx, p)
		if err == nil {
			return nil
		}
		w.close()
		isLost := errors.Is(err, ErrUnreachable) || errors.Is(err, ErrServerDown) || errors.Is(err, ErrTooManyClients)
		isStopping := sqlstate.Of(err) == sqlstate.CannotConnectNow // and waits for the snapshot's other connections, which would wait for this one
		if !isLost || isStopping || ctx.Err() != nil {
			return err
		}
		delay := delays.NextBackOff()
		if delay < 0 {
			return err
		}
		w.stream.cfg.log.Info("a connection that reads rows of a snapshot is lost, trying again", "slot", w.stream.source.Slot,
			"table", p.table.rel.String(), "delay", delay.Round(time.Millisecond), "error", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *copier) try(ctx context.Context, p *part) (err error) {
	if w.conn == nil {
		if w.conn, err = w.copiers.conn.share(ctx, w.snapshot.name); err != nil {
			return err
		}
		if _, err := w.conn.Query(ctx, "SET lock_timeout = '100ms'"); err != nil { // see copyLocked
			return pgfail.Failed("set the time-outs", err)
		}
	}
	rows := pgoutput.CopyRows{Columns: len(p.table.columns), Text: p.table.text}
	b := batch{part: p}
	skip, hash := p.rows, uint64(0)
	hand := func() error {
		if len(b.rows) == 0 && !b.last {
			return nil
		}
		b.readAt = time.Now()
		select {
		case w.batches <- b:
			w.stream.wake()
		case <-ctx.Done():
			return ctx.Err()
		}
		p.rows, p.hash = p.rows+int64(len(b.rows)), hash
		b = batch{part: p, rows: make([]string, 0, batchRows)}
		return nil
	}
	add := func(row string) error {
		hash = hash*0x9E3779B97F4A7C15 + maphash.String(hashSeed, row)
		if skip > 0 {
			b.bytes = 0
			if skip--; skip == 0 && hash != p.hash {
				return p.changed()
			}
			return nil
		}
		b.rows = append(b.rows, row)
		if len(b.rows) == batchRows || b.bytes >= batchBytes {
			return hand()
		}
		return nil
	}
	data := func(line []byte) error {
		b.bytes += int64(len(line))
		row, err := rows.Line(line)
		if err != nil {
			return pgfail.Malformed(w.snapshot.from, err)
		}
		return add(row)
	}
	if w.stream.cfg.binary {
		data = func(block []byte) error {
			b.bytes += int64(len(block))
			err := rows.Binary(block, add)
			if err != nil && ctx.Err() == nil && !causes.IsOurs(err) {
				return pgfail.Malformed(w.snapshot.from, err)
			}
			return err
		}
	}
	pause := func() error {
		if len(w.batches) > 0 { // the owner has enough to do
			return nil
		}
		return hand()
	}
	err = w.conn.Copy(ctx, p.sql, data, pause)
	if sqlstate.Of(err) == sqlstate.LockNotAvailable {
		w.close() // its transaction has failed
		err = w.snapshot.copyLocked(ctx, p.sql, data, pause)
	}
	switch {
	case err != nil:
		return readError(p.table.rel, err)
	case skip > 0:
		return p.changed()
	}
	b.last = true
	return hand()
}

// changed is the error of rows that are not those that came the first time.
func (p *part) changed() error {
	return &Error{Kind: ErrServer, What: fmt.Sprintf("rows of %s were read up to where a connection broke, and are others, or in another order, over the next", p.table.rel),
		Advice: "the snapshot starts over; see whether SnapshotTable.Where is of one mind about the same rows"}
}

// copyLocked is Copy over the keeper's connection, which has the table's lock. Others may not get it any more: behind somebody who
// waits to alter the table they would wait, and he for the keeper ("Explicit Locking").
func (p *snapshot) copyLocked(ctx context.Context, sql string, data func([]byte) error, pause func() error) error {
	p.keeping.Lock()
	defer p.keeping.Unlock()
	return p.keeper.Copy(ctx, sql, data, pause)
}

func readError(rel *Relation, err error) error {
	if causes.IsOurs(err) {
		return err
	}
	e := pgfail.Failed(fmt.Sprintf("read the rows of %s", rel), err)
	if pg := sqlstate.Error(err); pg != nil && sqlstate.QuotesData(pg) {
		e.Err = sqlstate.Withheld{PG: pg}
	}
	switch state := sqlstate.Of(err); {
	case state == sqlstate.UndefinedTable, state == sqlstate.UndefinedColumn: // it was altered before it was locked
	case strings.HasPrefix(state, "22"), strings.HasPrefix(state, "42") && state != sqlstate.NoPrivilege:
		e.Kind, e.Advice = ErrTableRead, "correct the row, the publication's row filter, or SnapshotTable.Where; see the server's log"
	}
	return e
}

// share makes an ordinary connection that sees the snapshot, and reads rows as the stream will have them.
func (c *connection) share(ctx context.Context, name string) (*session.Conn, error) {
	cfg := c.ordinaryConfig()
	conn, err := session.DialOrdinary(ctx, cfg)
	if err != nil {
		return nil, dial.Error(err, cfg)
	}
	conn.KeepAlive()
	version, _ := conn.Version()
	// A policy that hides rows is to be an error, not a gap. Rows come in the order in which they lie in the table, each time the same.
	if _, err := conn.Query(ctx, noTimeouts(version)+"; SET row_security = off; SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0; "+
		"SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"); err != nil {
		conn.Close()
		return nil, pgfail.Failed("set how rows are read", err)
	}
	if err := join(ctx, conn, name); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// join begins a transaction that sees the snapshot.
func join(ctx context.Context, conn *session.Conn, name string) error {
	_, err := conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+pgsql.Literal(name))
	if err == nil {
		return nil
	}
	e := pgfail.Failed("share the snapshot", err)
	if state := sqlstate.Of(err); state == sqlstate.InvalidParameter || state == sqlstate.UndefinedObject { // before PostgreSQL 17, and since
		e.Kind, e.Advice = ErrUnreachable, "it is gone with the connection that has exported it: it starts over"
	}
	return e
}
