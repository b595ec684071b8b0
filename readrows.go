package walchan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/session"
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
// nothing. The rows come in the order of the key (but for a few that come again). So if the process ends in the middle, the
// next one goes on where it was: after are the values of the key's columns, as text, of the last Read that was stored.
// Over reconnects ReadRows goes on by itself.
//
// The table must have a primary key or a replica identity index (ErrTableKey). It begins when the transactions that are
// running have ended, as a slot does. The role needs to write to the database's log (pg_logical_emit_message, transactional,
// with a prefix that streams of this package do not deliver), so it cannot be used on a standby, nor with WithTwoPhase or
// WithBinary. It stops when ctx ends, and with the stream.
func (s *Stream) ReadRows(ctx context.Context, table SnapshotTable, after ...string) error {
	x := &tableReading{stream: s, size: 1000, id: fmt.Sprintf("%x", rand.Uint64())}
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
	id      string // of its marks
	conn    *session.Conn
	src     *source
	oid     uint32
	from    string   // table, as in FROM
	key     []string // names of the key's columns
	columns []int    // their indexes in src.rel

	settled   bool
	after     []string // key of the last row
	exhausted bool     // there are no more
	again     []string // keys of rows to be read once more
	size      int      // rows of the next piece
	pieces    int      // read
	delivered int      // of them
	pending   *piece   // read and not delivered

	seen  atomic.Pointer[visibility] // before the first piece: what it will see at least
	piece atomic.Pointer[piece]      // to be delivered at its mark

	// The owner's.
	notes []note
	rel   *Relation // of which keyAt is
	keyAt []int
}

// piece is some rows.
type piece struct {
	mark      string
	rows      []string       // row blocks; "": the stream has it newer
	index     map[string]int // by key
	at        visibility
	first     bool
	bytes     int64
	last      []string // key of its last row
	exhausted bool     // it goes to the table's end
	fitting   int      // rows of the next one

	taken atomic.Bool // by the owner, or by the caller to read it anew

	weeded, begun bool // the owner's
	next          int  // the owner's: row to be delivered
	again         []string
	done          chan struct{} // closed when it is delivered
}

// note is a change of the table that is not yet known to be seen by the pieces to come.
type note struct {
	xid       uint32
	old, new  string // keys; "": none
	unchanged bool   // large values are left out
	truncate  bool
}

func (n *note) movedWithout() bool { return n.unchanged && n.old != "" && n.old != n.new }

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
	if _, err := parsePattern(table.Name); err != nil {
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
		if isPermanent(err) {
			return err
		}
		x.close()
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

// read goes on where it was, over one connection.
func (x *tableReading) read(ctx context.Context, table SnapshotTable) error {
	if err := x.connect(ctx); err != nil {
		return err
	}
	// Read over a connection that was lost: perhaps from a server that has failed over, and had rows that the new one does not.
	if p := x.pending; p != nil && p.taken.CompareAndSwap(false, true) {
		x.pending = nil
	}
	if x.src == nil {
		if err := x.describe(ctx, table); err != nil {
			return err
		}
	}
	if !x.settled {
		if err := x.settle(ctx); err != nil {
			return err
		}
		x.settled = true
	}
	for {
		if x.pending == nil {
			p, err := x.readPiece(ctx)
			if err != nil {
				return readError(x.src.rel, err)
			}
			x.pending = p
			x.piece.Store(p)
		}
		p := x.pending
		// Once more, if the connection broke: a mark without its piece does nothing.
		if _, err := x.conn.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)", quoteLiteral(readRowsPrefix), quoteLiteral(p.mark))); err != nil {
			return failed("write a mark into the log", err)
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
				return failed("read the table", err)
			}
		}
	}
}

func (x *tableReading) connect(ctx context.Context) error {
	c := x.stream.conn.Load()
	if c == nil {
		return ErrClosed
	}
	cfg := c.ordinaryConfig()
	conn, err := session.DialOrdinary(ctx, cfg)
	if err != nil {
		return connectError(err, cfg)
	}
	x.conn = conn
	conn.KeepAlive()
	version, _ := conn.Version()
	// A mark is in the log when its transaction is committed. A commit must not wait for standbys, of which this stream may be one.
	if _, err := conn.Query(ctx, noTimeouts(version)+"; SET row_security = off; SET synchronous_commit = local"); err != nil {
		return failed("set the time-outs", err)
	}
	return nil
}

// describe finds the table and its key.
func (x *tableReading) describe(ctx context.Context, table SnapshotTable) error {
	version, _ := x.conn.Version()
	cfg := x.stream.cfg
	if _, err := x.conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return failed("look up the table", err)
	}
	all, err := publishedTables(ctx, x.conn, version, cfg.publications)
	if err != nil {
		return err
	}
	chosen, err := choose(ctx, x.conn, all, []SnapshotTable{table})
	if err != nil {
		return err
	}
	if len(chosen) != 1 {
		return invalid(fmt.Sprintf("ReadRows reads one table, and %s are %d", table.Name, len(chosen)))
	}
	if err := describe(ctx, x.conn, version, chosen); err != nil {
		return err
	}
	t := chosen[0]
	if err := x.findKey(ctx, t.rel); err != nil {
		return err
	}
	if oids := x.stream.types.unknown(t.rel.Columns); len(oids) > 0 {
		if err := x.stream.types.lookup(ctx, x.conn.PG(), oids); err != nil {
			return failed("look up types", err)
		}
	}
	x.stream.types.bind(t.rel)
	src := t.source(false)
	x.from = t.rel.String()
	if !t.partitioned {
		x.from = "ONLY " + x.from
	} else if err := x.leaveOut(ctx, src, t.rel); err != nil {
		return err
	}
	rows, err := x.conn.Query(ctx, fmt.Sprintf(`SELECT coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::int8, coalesce(sum(greatest(c.reltuples, 0)), 0)::int8
		FROM pg_catalog.pg_partition_tree(%d) t JOIN pg_catalog.pg_class c ON c.oid = t.relid`, t.rel.OID))
	if err != nil || len(rows) != 1 {
		return failed("measure the table", err)
	}
	src.estimatedBytes, _ = strconv.ParseInt(rows[0][0], 10, 64)
	src.estimatedRows, _ = strconv.ParseInt(rows[0][1], 10, 64)
	src.left.Store(1)
	if _, err := x.conn.Query(ctx, "COMMIT"); err != nil {
		return failed("look up the table", err)
	}
	x.src, x.oid = src, t.rel.OID
	if !x.stream.reading.CompareAndSwap(nil, x) {
		return invalid("ReadRows is at work already: one table at a time")
	}
	x.stream.gauge.read.Store(src)
	return nil
}

// findKey finds by what rows are told apart: in the stream's old rows by the replica identity.
func (x *tableReading) findKey(ctx context.Context, rel *Relation) error {
	rows, err := x.conn.Query(ctx, fmt.Sprintf(`SELECT a.attname
		FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
		JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
		WHERE i.indrelid = %d AND i.indimmediate AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END
		ORDER BY pg_catalog.array_position(i.indkey::int2[], a.attnum)`, rel.OID))
	if err != nil {
		return failed("look up the key", err)
	}
	x.key, x.columns = nil, nil
	for _, r := range rows {
		i := rel.Index(r[0])
		if i < 0 {
			rows = nil
			break
		}
		x.key, x.columns = append(x.key, r[0]), append(x.columns, i)
	}
	if len(rows) == 0 {
		return &Error{Kind: ErrTableKey, What: fmt.Sprintf("table %s has no key, or not all of it is read", rel), Advice: "give it a primary key, or REPLICA IDENTITY USING INDEX, and have it published"}
	}
	if x.after != nil && len(x.after) != len(x.key) {
		return invalid(fmt.Sprintf("ReadRows is to begin after %d values, and the key of %s has %d", len(x.after), rel, len(x.key)))
	}
	return nil
}

// leaveOut leaves out the partitions that are not in the log.
func (x *tableReading) leaveOut(ctx context.Context, src *source, rel *Relation) error {
	rows, err := x.conn.Query(ctx, fmt.Sprintf(`SELECT c.oid FROM pg_catalog.pg_partition_tree(%d) t JOIN pg_catalog.pg_class c ON c.oid = t.relid
		WHERE t.isleaf AND (c.relkind <> 'r' OR c.relpersistence <> 'p')`, rel.OID))
	if err != nil {
		return failed("look up the partitions", err)
	}
	var conditions []string
	for _, r := range rows {
		conditions = append(conditions, "tableoid <> "+r[0])
	}
	if src.where != "" {
		conditions = append(conditions, "("+src.where+"\n)")
	}
	src.where = strings.Join(conditions, " AND ")
	return nil
}

// settle waits until all transactions have ended that are running now: those may have made changes that the stream does not have,
// for they were made before the table was published, or that it has delivered before changes are noted.
func (x *tableReading) settle(ctx context.Context) error {
	rows, err := x.conn.Query(ctx, "SELECT pg_catalog.pg_current_xact_id()")
	if err != nil || len(rows) != 1 {
		return failed("begin to read the table", err)
	}
	last, err := strconv.ParseUint(rows[0][0], 10, 64)
	if err != nil {
		return failed("begin to read the table", err)
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
		if !sleepFor(ctx, pause) {
			return ctx.Err()
		}
	}
}

// look returns what is visible now.
func (x *tableReading) look(ctx context.Context) (v visibility, err error) {
	rows, err := x.conn.Query(ctx, "SELECT pg_catalog.pg_current_snapshot()")
	if err != nil || len(rows) != 1 {
		return v, failed("look which transactions are running", err)
	}
	return parseVisibility(rows[0][0])
}

// readPiece reads the rows that are to be read once more, or else those that follow.
func (x *tableReading) readPiece(ctx context.Context) (*piece, error) {
	if _, err := x.conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return nil, err
	}
	v, err := x.look(ctx)
	if err != nil {
		return nil, err
	}
	x.pieces++
	p := &piece{mark: fmt.Sprintf("%s %d", x.id, x.pieces), index: map[string]int{}, at: v, first: x.delivered == 0, done: make(chan struct{})}
	rows := pgoutput.CopyRows{Columns: len(x.src.columns)}
	err = x.conn.Copy(ctx, "COPY ("+x.query()+") TO STDOUT", func(line []byte) error {
		block, err := rows.Line(line)
		if err != nil {
			return malformed(0, err)
		}
		p.bytes += int64(len(line))
		p.index[keyOf(Row{x.src.rel, block}, x.columns)] = len(p.rows)
		p.rows = append(p.rows, block)
		return nil
	}, func() error { return nil })
	if err == nil {
		_, err = x.conn.Query(ctx, "COMMIT")
	}
	if err != nil {
		return nil, err
	}
	p.last, p.exhausted, p.fitting = x.after, x.exhausted, x.size
	if len(x.again) == 0 {
		x.proceed(p)
	}
	return p, nil
}

// pieceBytes is what a piece comes to after a few.
const pieceBytes = 1 << 20

// proceed: the next piece begins behind this one.
func (x *tableReading) proceed(p *piece) {
	p.exhausted = len(p.rows) < x.size
	if len(p.rows) == 0 {
		return
	}
	last := Row{x.src.rel, p.rows[len(p.rows)-1]}
	p.last = nil
	for _, i := range x.columns {
		p.last = append(p.last, strings.Clone(last.Text(i)))
	}
	fitting := int(pieceBytes * int64(len(p.rows)) / max(p.bytes, 1))
	p.fitting = min(max(fitting, x.size/4, 1), 2*x.size, 10_000)
}

func (x *tableReading) query() string {
	key := make([]string, len(x.key))
	for i, name := range x.key {
		key[i] = quoteName(name)
	}
	var conditions []string
	if x.src.where != "" {
		conditions = append(conditions, "("+x.src.where+"\n)")
	}
	limit := fmt.Sprintf(" ORDER BY %s LIMIT %d", strings.Join(key, ", "), x.size)
	switch {
	case len(x.again) > 0:
		var keys []string
		for _, k := range x.again {
			keys = append(keys, tupleOf(splitKey(k)))
		}
		conditions = append(conditions, fmt.Sprintf("(%s) IN (%s)", strings.Join(key, ", "), strings.Join(keys, ", ")))
		limit = ""
	case x.after != nil:
		conditions = append(conditions, fmt.Sprintf("(%s) > %s", strings.Join(key, ", "), tupleOf(x.after)))
	}
	sql := "SELECT " + strings.Join(x.src.columns, ", ") + " FROM " + x.from
	if conditions != nil {
		sql += " WHERE " + strings.Join(conditions, " AND ")
	}
	return sql + limit
}

// tupleOf writes values as SQL has them, of the types of what they are compared with.
func tupleOf(values []string) string {
	literals := make([]string, len(values))
	for i, v := range values {
		literals[i] = quoteLiteral(v)
	}
	return "(" + strings.Join(literals, ", ") + ")"
}

// keyOf is the key of a row: no value has a zero byte.
func keyOf(r Row, columns []int) string {
	var b strings.Builder
	for _, i := range columns {
		b.WriteByte(0)
		b.WriteString(r.Text(i))
	}
	return b.String()
}

func splitKey(key string) []string { return strings.Split(key[1:], "\x00") }

// note notes a change of the table, as the stream comes to it. The owner calls it.
func (x *tableReading) note(m *Message, xid uint32) {
	if m.Kind == Truncate {
		if tables, _, _ := m.Truncated(); slices.ContainsFunc(tables, func(r *Relation) bool { return r.OID == x.oid }) {
			x.notes = append(x.notes, note{xid: xid, truncate: true})
		}
		return
	}
	if m.Relation.OID != x.oid {
		return
	}
	if m.Relation != x.rel {
		x.rel, x.keyAt = m.Relation, nil
		for _, name := range x.key {
			if i := m.Relation.Index(name); i >= 0 {
				x.keyAt = append(x.keyAt, i)
			}
		}
	}
	n := note{xid: xid}
	if old := m.Old(); old.Len() > 0 {
		n.old = keyOf(old, x.keyAt)
	}
	if row := m.New(); row.Len() > 0 {
		n.new = keyOf(row, x.keyAt)
		for i := range row.Len() {
			n.unchanged = n.unchanged || row.State(i) == Unchanged
		}
	}
	x.notes = append(x.notes, n)
	if v := x.seen.Load(); v != nil && len(x.notes)%1024 == 0 { // while it waits to begin
		x.notes = slices.DeleteFunc(x.notes, func(n note) bool { return v.sees(n.xid) && !n.movedWithout() })
	}
}

// mark delivers the piece whose mark the stream has come to. The owner calls it; again, if the connection breaks meanwhile and the
// mark comes again.
func (x *tableReading) mark(s *Stream, m *Message) error {
	p := x.piece.Load()
	if p == nil || p.mark != m.data {
		return nil
	}
	if !p.weeded {
		if !p.taken.CompareAndSwap(false, true) {
			return nil
		}
		p.weeded = true
		x.weed(p)
	}
	out := Message{LSN: m.LSN, sent: m.sent}
	info := &Snapshot{Tables: []*Relation{x.src.rel}, Attempt: 1, Among: true}
	if p.first && !p.begun {
		out.Kind, out.ext = SnapshotBegin, info
		if err := s.deliver(&out); err != nil {
			return err
		}
		p.begun = true
	}
	out.Kind, out.ext, out.Relation = Read, nil, x.src.rel
	for ; p.next < len(p.rows); p.next++ {
		if out.data = p.rows[p.next]; out.data == "" {
			continue
		}
		if err := s.deliver(&out); err != nil {
			return err
		}
		x.src.rows.Add(1)
	}
	if p.exhausted && len(p.again) == 0 {
		if err := s.deliver(&Message{Kind: SnapshotEnd, LSN: m.LSN, sent: m.sent, ext: info}); err != nil {
			return err
		}
		x.src.left.Store(0)
	}
	x.src.bytes.Add(p.bytes)
	x.piece.Store(nil)
	close(p.done)
	return nil
}

// weed takes out of a piece what the stream has delivered newer, and finds what is to be read once more: rows whose large
// values the consumer does not have, for they were changed before they were read, or moved to where the reading had been. It
// forgets the changes that the piece has seen, for later ones see them, too.
func (x *tableReading) weed(p *piece) {
	again := map[string]bool{}
	take := func(key string) bool {
		delete(again, key)
		i, ok := p.index[key]
		if ok {
			p.rows[i] = ""
		}
		return ok
	}
	x.notes = slices.DeleteFunc(x.notes, func(n note) bool {
		seen := p.at.sees(n.xid)
		switch {
		case seen && n.movedWithout():
			again[n.new] = true
		case seen:
		case n.truncate:
			clear(p.rows)
			clear(again)
		default:
			had := take(n.old)
			if had = take(n.new) || had; had && n.unchanged {
				again[n.new] = true
			}
		}
		return seen
	})
	for key := range again {
		p.again = append(p.again, key)
	}
	x.seen.Store(nil)
}

// visibility says which transactions a snapshot of the database sees (pg_snapshot in the documentation of "System Information
// Functions"): those that have ended before min, and all others before max but the running ones.
type visibility struct {
	min, max uint64
	running  []uint64 // ascending
}

func parseVisibility(s string) (v visibility, err error) {
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return v, fmt.Errorf("walchan: snapshot %q cannot be understood", s)
	}
	number := func(s string) (n uint64) {
		if err == nil {
			n, err = strconv.ParseUint(s, 10, 64)
		}
		return n
	}
	v.min, v.max = number(f[0]), number(f[1])
	if f[2] != "" {
		for xid := range strings.SplitSeq(f[2], ",") {
			v.running = append(v.running, number(xid))
		}
	}
	return v, err
}

// sees says whether it sees a transaction. The stream has but the lower half of its number, which is within 2^31 of others at work.
func (v *visibility) sees(xid uint32) bool {
	full := v.max + uint64(int64(int32(xid-uint32(v.max))))
	switch {
	case full < v.min:
		return true
	case full >= v.max:
		return false
	}
	_, running := slices.BinarySearch(v.running, full)
	return !running
}
