package walchan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/snapshot"
)

// Rows among the changes: a table is read in pieces, in the order of its key, while the stream goes on. The idea is that of
// "DBLog: A Watermark Based Change-Data-Capture Framework" (Andreakis and Papapanagiotou, 2020): a mark is written into the
// log when a piece is read, and where the stream comes to the mark the piece is delivered, without the rows that the stream
// has newer.
//
// Which rows those are positions do not tell. A transaction is seen by others only some time after its commit record is
// written (a synchronous commit waits in between), so that a change before a mark may be missing in a piece. So each
// piece knows the database's snapshot at which it was read: what the stream has of transactions that were not seen
// then is newer. And what was committed before the notes of changes begin must be seen by the first piece: it waits for the end of the
// transactions that are running.
//
// An UPDATE comes without the large values it leaves alone. A consumer that does not have the row yet would never see them: then
// the row is read once more.

// ReadRows delivers the rows that exist of a table among the changes: a SnapshotBegin, a Read for each row, a SnapshotEnd. It is for
// a table that is added to the publication of a stream, and for one that is too large for WithSnapshot: it holds no
// long transaction, nor back the stream. It returns when all is delivered. Call it from a goroutine of its own, not from the one that
// receives; one table at a time.
//
// A Read is the row as it is at its place among the changes, so that the last word on a row is always the last message. Changes come
// in between, also of rows that were not delivered yet: an Update of a row that is not there puts it there, a Delete of one does
// nothing. Over reconnects ReadRows goes on by itself, and where a column is added, with the Relation of the table as it is then.
// While the stream has no connection, ReadRows has none either. When the server is stopping, ReadRows notices it within seconds and
// waits until the stream is connected again: so a smart stop (pg_ctl stop -m smart) does not wait for it.
//
// The rows come in the order of the key, but for a few that come again, later. So if the process ends in the middle, the
// next one goes on where it was: after are the values of the key's columns, as text, of the last Read that was stored.
// Rows up to there are not read any more. Of these the consumer may lack large values that an Update has left Unchanged: where that Update
// moved the row there from behind, while nobody read or after its process ended before the row came again; or where it came
// just when its piece was read, and the process ended then. What is stored tells them, by the value it does not have, and
// a SnapshotTable.Where reads them. With REPLICA IDENTITY FULL there are none, and none without large values.
//
// The table must have a primary key or a replica identity index (ErrTableKey), and keep that and its name until the end. It begins when the transactions that are
// running have ended, as a slot does. The role needs to write to the database's log (pg_logical_emit_message, transactional,
// with a prefix that streams of this package do not deliver), so it cannot be used on a standby, nor with WithTwoPhase or
// WithBinary. It stops when ctx ends, and with the stream.
func (s *Stream) ReadRows(ctx context.Context, table SnapshotTable, after ...string) error {
	x := &tableReading{stream: s, size: firstRows, id: fmt.Sprintf("%x", rand.Uint64())}
	if after != nil {
		x.after = after
	}
	if err := x.validate(table); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	defer s.reading.CompareAndSwap(x, nil)
	defer x.close()
	err := x.run(ctx, table)
	if err != nil && s.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

// readRowsPrefix is that of the marks.
const readRowsPrefix = "walchan.ReadRows"

// tableReading is a call of ReadRows. Its fields belong to the caller's goroutine, but for those of the owner.
type tableReading struct {
	stream  *Stream
	id      string      // of its marks
	base    *connection // the stream's connection when conn was made
	conn    *session.Conn
	lookAt  time.Time       // when to look again whether the server is stopping
	oid     uint32          // of the table
	key     []string        // names of the key's columns
	src     *snapshot.Table // the table as it was last described; nil: it was not
	from    string          // it, as in FROM
	columns []int           // the key's indexes in src.rel
	shape   string          // see shapeOf
	altered bool            // it is to be described anew

	settled   bool
	after     []string // key of the last row
	exhausted bool     // there are no more
	again     []string // keys of rows to be read once more
	size      int      // rows of the next piece
	pieces    int      // read
	delivered int      // of them
	pending   *piece   // read and not delivered

	seen  atomic.Pointer[visibility] // what the pieces to come will see at least
	piece atomic.Pointer[piece]      // to be delivered at its mark

	// The owner's.
	notes []note
	rel   *Relation // of which keyAt is
	keyAt []int
}

func (x *tableReading) validate(table SnapshotTable) error {
	cfg := x.stream.cfg
	var problems []string
	switch {
	case cfg.plugin != pgoutputPlugin:
		problems = append(problems, "ReadRows belongs to pgoutput, not to the plugin "+cfg.plugin)
	case cfg.binary || cfg.isTwoPhase():
		problems = append(problems, "ReadRows cannot be used with WithBinary or WithTwoPhase")
	case !isOn(cfg.pgoutputArgs()["messages"]):
		problems = append(problems, `ReadRows needs the messages that WithPluginOption("messages", …) switches off`)
	}
	if _, err := pgsql.ParsePattern(table.Name); err != nil {
		problems = append(problems, "ReadRows: "+err.Error())
	}
	return invalid(problems...)
}

// run reads all there is, over as many connections as it takes.
func (x *tableReading) run(ctx context.Context, table SnapshotTable) error {
	cfg := x.stream.cfg
	delays := cfg.retry()
	delays.Reset()
	for {
		before := x.delivered
		err := x.read(ctx, table)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if pgfail.IsPermanent(err) {
			return err
		}
		x.close()
		if x.base.life.Err() != nil || errors.Is(err, errStopping) {
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
		cfg.log.Warn("reading rows is interrupted, trying again", "slot", x.stream.source.Slot, "table", table.Name, "delay", delay.Round(time.Millisecond), "error", err)
		if !sleepFor(ctx, delay) {
			return ctx.Err()
		}
	}
}

// follow waits until the stream is connected again.
func (x *tableReading) follow(ctx context.Context) bool {
	x.stream.cfg.log.Info("reading rows pauses until the stream is connected again", "slot", x.stream.source.Slot)
	select {
	case <-x.base.next:
		return true
	case <-ctx.Done():
		return false
	}
}

func sleepFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (x *tableReading) close() {
	if x.conn != nil {
		x.conn.Close()
		x.conn = nil
	}
}

// read goes on where it was, over one connection, which ends with that of the stream.
func (x *tableReading) read(ctx context.Context, table SnapshotTable) error {
	if x.base = x.stream.conn.Load(); x.base == nil {
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.base.life, cancel)()
	if err := x.connect(ctx); err != nil {
		return err
	}
	// Read over a connection that was lost: perhaps from a server that has failed over, and had rows that the new one does not.
	if p := x.pending; p != nil && p.taken.CompareAndSwap(false, true) {
		x.pending = nil
	}
	if x.src == nil || x.altered {
		if err := x.describe(ctx, table); err != nil {
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
				return snapshot.ReadError(x.src.String(), err)
			}
			x.seen.Store(&p.at)
			x.pending = p
			x.piece.Store(p)
		}
		p := x.pending
		// Once more, if the connection broke: a mark without its piece does nothing.
		if _, err := x.conn.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)", pgsql.Literal(readRowsPrefix), pgsql.Literal(p.mark))); err != nil {
			return pgfail.Failed("write a mark into the log", err)
		}
		if err := x.await(ctx, p); err != nil {
			return err
		}
		x.pending, x.again = nil, p.again
		x.delivered++
		x.after, x.exhausted, x.size = p.last, p.exhausted, p.fitting
		if x.exhausted && len(x.again) == 0 {
			return nil
		}
	}
}

// await waits until the piece is delivered, or the connection breaks: then its mark may be lost, too.
func (x *tableReading) await(ctx context.Context, p *piece) error {
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

// stopCheck is how often it is looked whether the server is stopping, which says so to nobody but those who connect.
const stopCheck = 5 * time.Second

var errStopping = errors.New("walchan: the server is stopping")

func (x *tableReading) checkStopping(ctx context.Context) error {
	now := time.Now()
	if now.Before(x.lookAt) {
		return nil
	}
	x.lookAt = now.Add(stopCheck)
	if x.base.isStopping(ctx) {
		return errStopping
	}
	return nil
}

func (x *tableReading) connect(ctx context.Context) error {
	x.lookAt = time.Now().Add(stopCheck)
	cfg := x.base.ordinaryConfig()
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

// settle waits until all transactions have ended that are running now: those may have made changes that the stream does not have,
// for they were made before the table was published, or that it has delivered before changes are noted.
func (x *tableReading) settle(ctx context.Context) error {
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
		x.seen.Store(&v)
		if v.min > last {
			return nil
		}
		if err := x.checkStopping(ctx); err != nil {
			return err
		}
		if !sleepFor(ctx, pause) {
			return ctx.Err()
		}
	}
}

// look returns what is visible now.
func (x *tableReading) look(ctx context.Context) (v visibility, err error) {
	rows, err := x.conn.Query(ctx, "SELECT pg_catalog.pg_current_snapshot()")
	if err != nil || len(rows) != 1 {
		return v, pgfail.Failed("look which transactions are running", err)
	}
	return parseVisibility(rows[0][0])
}

// table is the relation of the table that is read.
func (x *tableReading) table() *Relation { return x.src.Owner.(*Relation) }
