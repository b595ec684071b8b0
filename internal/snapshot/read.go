package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// part is what one COPY reads: a table, or a range of its pages.
type part struct {
	table *Table
	sql   string
	rows  int64  // handed over so far
	hash  uint64 // of these
}

var hashSeed = maphash.MakeSeed()

// Batch is rows on their way to who delivers them.
type Batch struct {
	Table  *Table
	Rows   []string // row blocks
	ReadAt time.Time
	bytes  int64 // as COPY has sent them
	last   bool  // of its part
}

// A batch ends when it is as large. It ends sooner if nothing more can be read at once and no batch waits to be delivered. At most two
// batches for each worker wait.
const (
	batchRows  = 256
	batchBytes = 64 << 10
)

// Reading is workers that read the rows of a snapshot. They end when all parts are read, at the first failure, or with Stop.
type Reading struct {
	snapshot *Snapshot
	stop     context.CancelFunc
	taken    atomic.Int32
	batches  chan Batch    // never closed
	failed   chan error    // 1; the first failure
	done     chan struct{} // closed when the workers have ended
}

// Read begins to read the rows. Stop must be called.
func (s *Snapshot) Read(ctx context.Context) *Reading {
	ctx, stop := context.WithCancel(ctx)
	r := &Reading{snapshot: s, stop: stop, batches: make(chan Batch, 2*s.request.Jobs), failed: make(chan error, 1), done: make(chan struct{})}
	var workers sync.WaitGroup
	for range min(s.request.Jobs, len(s.parts)) {
		workers.Go(func() { r.work(ctx) })
	}
	go func() {
		workers.Wait()
		close(r.done)
		s.request.Wake()
	}()
	return r
}

// Stop ends the workers, and waits until they have ended.
func (r *Reading) Stop() {
	r.stop()
	<-r.done
}

// IsReady says whether Next has something to return.
func (r *Reading) IsReady() bool {
	select {
	case <-r.done:
		return true
	default:
		return len(r.batches) > 0 || len(r.failed) > 0
	}
}

// Next returns what was read, and does not wait. False without an error means, after IsReady, that all was read.
func (r *Reading) Next() (b Batch, ok bool, err error) {
	select {
	case b = <-r.batches:
		return b, true, nil
	default:
	}
	select {
	case err = <-r.failed:
	default:
	}
	return b, false, err
}

func (r *Reading) work(ctx context.Context) {
	w := &worker{Reading: r}
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
					r.snapshot.request.Wake()
				default:
				}
			}
			return
		}
	}
}

// worker is one of them.
type worker struct {
	*Reading
	conn *session.Conn // nil: none
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// read reads a part. If the connection breaks it goes on over another one, because a snapshot shows the same rows in the same order. A
// condition of the user's can have the server read in another order: a hash of the rows tells.
func (w *worker) read(ctx context.Context, p *part) error {
	delays := w.snapshot.request.Retry()
	delays.Reset()
	for {
		err := w.try(ctx, p)
		if err == nil {
			return nil
		}
		w.close()
		isLost := errors.Is(err, walerr.Unreachable) || errors.Is(err, walerr.ServerDown) || errors.Is(err, walerr.TooManyClients)
		isStopping := sqlstate.Of(err) == sqlstate.CannotConnectNow // and waits for the snapshot's other connections, which would wait for this one
		if !isLost || isStopping || ctx.Err() != nil {
			return err
		}
		delay := delays.NextBackOff()
		if delay < 0 {
			return err
		}
		w.snapshot.request.Log.Info("a connection that reads rows of a snapshot is lost, trying again", "slot", w.snapshot.request.Slot,
			"table", p.table.String(), "delay", delay.Round(time.Millisecond), "error", err)
		if !link.Sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

func (w *worker) try(ctx context.Context, p *part) (err error) {
	if w.conn == nil {
		if w.conn, err = w.snapshot.share(ctx); err != nil {
			return err
		}
		if _, err := w.conn.Query(ctx, "SET lock_timeout = '100ms'"); err != nil { // see copyLocked
			return pgfail.Failed("set the time-outs", err)
		}
	}
	rows := pgoutput.CopyRows{Columns: len(p.table.Columns), Text: p.table.Text}
	b := Batch{Table: p.table}
	skip, hash := p.rows, uint64(0)
	hand := func() error {
		if len(b.Rows) == 0 && !b.last {
			return nil
		}
		b.ReadAt = time.Now()
		select {
		case w.batches <- b:
			w.snapshot.request.Wake()
		case <-ctx.Done():
			return ctx.Err()
		}
		p.rows, p.hash = p.rows+int64(len(b.Rows)), hash
		b = Batch{Table: p.table, Rows: make([]string, 0, batchRows)}
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
		b.Rows = append(b.Rows, row)
		if len(b.Rows) == batchRows || b.bytes >= batchBytes {
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
	if w.snapshot.request.Binary {
		data = func(block []byte) error {
			b.bytes += int64(len(block))
			err := rows.Binary(block, add)
			if err != nil && ctx.Err() == nil && !pgfail.IsExplained(err) {
				return pgfail.Malformed(w.snapshot.from, err)
			}
			return err
		}
	}
	pause := func() error {
		if len(w.batches) > 0 { // who delivers has enough to do
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
		return ReadError(p.table.String(), err)
	case skip > 0:
		return p.changed()
	}
	b.last = true
	return hand()
}

// changed is the error of rows that are not those that came the first time.
func (p *part) changed() error {
	return &walerr.Error{Kind: walerr.Server, What: fmt.Sprintf("rows of %s were read up to where a connection broke, and are others, or in another order, over the next", p.table),
		Advice: "the snapshot starts over; see whether SnapshotTable.Where is of one mind about the same rows"}
}

// copyLocked is Copy over the keeper's connection, which has the table's lock. Others may not get it any more: behind somebody who
// waits to alter the table they would wait, and he for the keeper ("Explicit Locking").
func (s *Snapshot) copyLocked(ctx context.Context, sql string, data func([]byte) error, pause func() error) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	return s.keeper.Copy(ctx, sql, data, pause)
}

// ReadError is the error of reading rows of a table.
func ReadError(table string, err error) error {
	if pgfail.IsExplained(err) {
		return err
	}
	e := pgfail.Failed("read the rows of "+table, err)
	if pg := sqlstate.Error(err); pg != nil && sqlstate.QuotesData(pg) {
		e.Err = sqlstate.Withheld{PG: pg}
	}
	switch state := sqlstate.Of(err); {
	case state == sqlstate.UndefinedTable, state == sqlstate.UndefinedColumn: // it was altered before it was locked
	case strings.HasPrefix(state, "22"), strings.HasPrefix(state, "42") && state != sqlstate.NoPrivilege:
		e.Kind, e.Advice = walerr.TableRead, "correct the row, the publication's row filter, or SnapshotTable.Where; see the server's log"
	}
	return e
}

// share makes an ordinary connection that sees the snapshot, and reads rows as the stream will have them.
func (s *Snapshot) share(ctx context.Context) (*session.Conn, error) {
	cfg := s.server()
	conn, err := session.DialOrdinary(ctx, cfg)
	if err != nil {
		return nil, dial.Error(err, cfg)
	}
	conn.KeepAlive()
	version, _ := conn.Version()
	// A policy that hides rows is to be an error, not a gap. Rows come in the order in which they lie in the table, each time the same.
	if _, err := conn.Query(ctx, session.NoTimeouts(version)+"; SET row_security = off; SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0; "+
		"SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"); err != nil {
		conn.Close()
		return nil, pgfail.Failed("set how rows are read", err)
	}
	if err := s.join(ctx, conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// join begins a transaction that sees the snapshot.
func (s *Snapshot) join(ctx context.Context, conn *session.Conn) error {
	_, err := conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+pgsql.Literal(s.name))
	if err == nil {
		return nil
	}
	e := pgfail.Failed("share the snapshot", err)
	if state := sqlstate.Of(err); state == sqlstate.InvalidParameter || state == sqlstate.UndefinedObject { // before PostgreSQL 17, and since
		e.Kind, e.Advice = walerr.Unreachable, "it is gone with the connection that has exported it: it starts over"
	}
	return e
}
