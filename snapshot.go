package walchan

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
)

// Existing rows first.
//
// A temporary slot is made, which exports a snapshot: exactly what was committed before the slot's first change. Workers, each
// with a connection of its own, share the snapshot and read the tables' rows; the owner delivers them. Only once all are
// acknowledged is the temporary slot copied to the permanent one. So the presence of that says that the snapshot is
// complete, and nothing else need remember it: whatever dies before leaves nothing behind.
//
// The connection that has made the slot must stay idle, for the snapshot goes with its next command. When it breaks, all
// starts over. When that of a worker does, the worker reads on where it was: the rows that a snapshot shows stand still.
//
// In the ledger a snapshot has one mark, after its last message, for consumers that store checkpoints. Nothing is confirmed.

// Snapshot is what a SnapshotBegin or SnapshotEnd is about.
type Snapshot struct {
	// Tables are those whose rows are read. Their rows' messages have the same Relations.
	Tables []*Relation

	// Attempt is 1 at first. Each time the snapshot is lost with its connection the next SnapshotBegin has a higher one: then the
	// rows start over, and all that were delivered since the first SnapshotBegin are void. Some of them may not exist any more.
	Attempt int

	// Among says that the rows come among the changes: see Stream.ReadRows.
	Among bool

	at *resume.Place // what the checkpoint of its message says; nil: it has none
}

// Snapshot returns what a SnapshotBegin or SnapshotEnd is about; nil otherwise. It must not be changed.
func (m Message) Snapshot() *Snapshot {
	s, _ := m.ext.(*Snapshot)
	return s
}

// SnapshotTable chooses tables of the publications for WithSnapshot.
type SnapshotTable struct {
	// Name is that of a table as in SQL (shop.orders, shop."Order"), in which * stands for any characters (shop.*, *_log).
	// Without a schema it is one that the search_path finds.
	Name string

	// Columns are those to read; none: all that the publication has. They must be among these, and have those of the replica
	// identity among them.
	Columns []string

	// Where is an SQL condition for the rows to read, in addition to that of the publication; "": all rows. The changes
	// that follow know nothing of it.
	Where string
}

type snapshotConfig struct {
	wanted  bool
	choices []SnapshotTable
	jobs    int
	keys    bool
}

// WithSnapshot has the stream begin with the rows that exist: a SnapshotBegin, a Read for each row, a SnapshotEnd, and then the
// changes, without a gap or an overlap between. It makes the slot; one that exists already is ErrSlotExists, unless
// WithCreateSlot is given too: then the snapshot is taken if the slot has to be made, and otherwise was taken before.
//
// The slot is made, all at once, when every message up to SnapshotEnd is acknowledged. Until then a process that ends, for
// whatever reason, leaves nothing behind, and the next one begins anew. When the connection breaks meanwhile, the rows start over
// in the same stream: see Snapshot.Attempt. Mind WithMaxUnacked.
//
// The tables are those of the publications, or those of them that are named; their columns and rows are those that the
// publications have (column lists, row filters, the root of a partitioned table with publish_via_partition_root). So views,
// foreign and unlogged tables have no part in it, for they cannot be published, also not as partitions. What the role may
// not read is ErrPermission, with the names of all such tables, before the first row comes.
//
// While the rows are read the server's VACUUM can remove no rows that were deleted since, and tables cannot be altered; and until
// all are acknowledged the server keeps its WAL. The order of the rows is not defined.
//
// A smart stop of the server (pg_ctl stop -m smart) waits until all rows are acknowledged and the slot is made, as it waits for
// pg_dump. If a connection that reads rows breaks meanwhile, the server refuses another one: the snapshot is then given up, and
// starts over when the server is back. A fast stop always gives it up.
func WithSnapshot(tables ...SnapshotTable) Option {
	return func(c *config) {
		c.snapshot.wanted = true
		c.snapshot.choices = append(c.snapshot.choices, tables...)
	}
}

// WithSnapshotJobs sets how many connections read the rows of a snapshot at the same time, overriding the default of 2. Large
// tables are split between them. There are two connections more while it lasts: one that holds the snapshot, and one that
// keeps the tables from being altered.
func WithSnapshotJobs(n int) Option { return func(c *config) { c.snapshot.jobs = n } }

// WithSnapshotKeys has Subscribe refuse a snapshot (ErrTableKey) of tables without a replica identity, for the rows of such
// tables cannot be told apart, and the server refuses to UPDATE and DELETE them: all are named.
func WithSnapshotKeys() Option { return func(c *config) { c.snapshot.keys = true } }

func (c *config) snapshotProblems() (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.snapshot.jobs < 1 {
		wrong("WithSnapshotJobs(%d): must be at least 1", c.snapshot.jobs)
	}
	if !c.snapshot.wanted {
		return problems
	}
	if c.plugin != pgoutputPlugin {
		wrong("WithSnapshot belongs to pgoutput, not to the plugin %s", c.plugin)
	} else if len(c.publications) == 0 {
		wrong("WithSnapshot needs WithPublication: it reads the tables of the publications")
	}
	for _, t := range c.snapshot.choices {
		if _, err := pgsql.ParsePattern(t.Name); err != nil {
			wrong("WithSnapshot: %v", err)
		}
		if strings.ContainsRune(t.Where, 0) || slices.ContainsFunc(t.Columns, func(c string) bool { return !pgsql.IsName(c) }) {
			wrong("WithSnapshot: a column of %s is not a name of 1 to 63 bytes, or its condition has a zero byte", t.Name)
		}
	}
	return problems
}

// snapshot is one attempt: from the temporary slot on, until the stream begins.
type snapshot struct {
	system   session.System
	slot     string // the temporary one
	name     string // of the exported snapshot
	from     LSN    // the slot's beginning: what was committed before is in the snapshot
	tables   []*source
	parts    []*part
	info     *Snapshot
	keeper   *session.Conn // holds the tables' locks
	keeping  sync.Mutex    // who uses the keeper's connection, while there are workers
	unlocked bool          // the tables are
	ended    bool          // SnapshotEnd was delivered
	checkAt  time.Time     // when to look at the connections
}

// checkEvery is how often it is looked whether the connections that hold a snapshot are broken.
const checkEvery = time.Second

// openSnapshot begins an attempt, unless the slot exists: then it returns false, and the stream goes on from that.
func (s *Stream) openSnapshot(ctx context.Context, c *connection, system session.System) (bool, error) {
	if s.cfg.slot != "" {
		slot, err := slots.Read(ctx, c.Query, s.cfg.slot)
		switch {
		case err != nil:
			return false, err
		case slot != nil && s.snapshots.attempt == 0 && s.cfg.createSlot,
			slot != nil && s.snapshots.kept != 0 && slot.Confirmed == s.snapshots.kept: // it was kept, and the answer was lost
			s.snapshots.due = false
			return false, s.setFailover(ctx, c)
		case slot != nil:
			return false, &Error{Kind: ErrSlotExists, What: fmt.Sprintf("slot %q exists already: what is in the tables now is not what is before its changes", s.cfg.slot),
				Advice: "stream from it without WithSnapshot, or with WithCreateSlot beside it; or DropSlot for a snapshot"}
		}
		if err := checkRoom(ctx, c, s.cfg.slot); err != nil {
			return false, err
		}
	}
	p := &snapshot{system: system, slot: s.source.Slot}
	if s.cfg.slot != "" {
		p.slot = s.temporarySlot()
	}
	c.snapshot = p
	if err := p.export(s.ctx, c, s.cfg); err != nil {
		return false, err
	}
	if err := s.checkAlone(c); err != nil {
		return false, err
	}
	if s.snapshots.bare {
		p.info = &Snapshot{}
	} else if err := p.plan(s.ctx, c, s); err != nil {
		return false, err
	}
	s.snapshots.attempt++
	p.info.Attempt = s.snapshots.attempt
	c.timeline, c.status.Since = system.Timeline, time.Now()
	s.gauge.snapshot.Store(p)
	return true, nil
}

// checkRoom makes sure that there can be the temporary slot and beside it, when all rows are acknowledged, the permanent one.
func checkRoom(ctx context.Context, c *connection, name string) error {
	rows, err := c.Query(ctx, "SELECT count(*) + 2 > pg_catalog.current_setting('max_replication_slots')::pg_catalog.int8 FROM pg_catalog.pg_replication_slots")
	switch {
	case err != nil || len(rows) != 1:
		return pgfail.Failed("count the slots", err)
	case rows[0][0] == "t":
		return &Error{Kind: ErrNoFreeSlot, What: fmt.Sprintf("slot %q cannot be made: a snapshot needs two free slots, of which one goes again", name),
			Advice: "drop a slot that nobody uses (Slots lists them), or raise max_replication_slots"}
	}
	return nil
}

// export makes the slot and its snapshot. The time-outs would end the connection, which is idle in a transaction as the server
// sees it.
func (p *snapshot) export(ctx context.Context, c *connection, cfg *config) error {
	version, _ := c.Version()
	if _, err := c.Query(ctx, noTimeouts(version)); err != nil {
		return pgfail.Failed("set the time-outs", err)
	}
	c.KeepAlive()
	slot, err := createSlot(ctx, c, cfg, NewSlot{Name: p.slot, Plugin: cfg.plugin, Temporary: true, TwoPhase: cfg.isTwoPhase(), Snapshot: SnapshotExport})
	p.name, p.from = slot.Snapshot, slot.Start
	return err
}

// noTimeouts lets a session wait for as long as it takes. lock_timeout too: what a snapshot waits for is the end of an ALTER TABLE.
func noTimeouts(version int) string {
	sql := "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0"
	if version >= 170000 {
		sql += "; SET transaction_timeout = 0"
	}
	return sql
}

// takeSnapshot is a connection's life before its stream: it delivers the rows, waits for their acknowledgement, keeps the slot,
// and starts the stream.
func (s *Stream) takeSnapshot(c *connection) error {
	p := c.snapshot
	defer p.close()
	s.flowing = StateSnapshot
	defer func() { s.flowing = StateStreaming }()
	if err := s.deliverSnapshot(c, p); err != nil {
		return err
	}
	if err := s.settle(c, p); err != nil {
		return err
	}
	if err := s.keepSlot(c); err != nil {
		return err
	}
	s.cfg.log.Info("the slot is made", "slot", s.source.Slot, "from", p.from)
	ctx, cancel := context.WithTimeout(s.ctx, c.patience())
	defer cancel()
	return s.launch(ctx, c, nil, p.system, p.from)
}

// settle waits until the snapshot is acknowledged and, with checkpoints, stored.
func (s *Stream) settle(c *connection, p *snapshot) error {
	var skipped time.Time // since when everything is acknowledged and nothing stored
	for {
		now := time.Now()
		next, err := s.attend(c, now)
		if err != nil || s.isSettled(p) {
			return err
		}
		switch {
		case s.ledger.Outstanding() > 0:
		case skipped.IsZero():
			skipped = now
		case now.Sub(skipped) >= forgottenAfter:
			skipped = now
			s.cfg.log.Warn("every message is skipped and no checkpoint is stored: the slot is not made before (Ack the last message, or call Stored)", "slot", s.source.Slot)
		}
		s.wait(now, next, ledger.All, nil, &Message{}, nil)
	}
}

// patience is how long a server that is asked something short may take: one over a connection that nobody else has closed would
// be waited for without end.
func (c *connection) patience() time.Duration { return max(c.liveness.Timeout, awaitTimeout) }

// isSettled says whether everything is acknowledged, and a checkpoint of it is stored, if the stream has those.
func (s *Stream) isSettled(p *snapshot) bool {
	return s.ledger.Outstanding() == 0 && (!s.ledger.Storing || s.ledger.Advance() >= p.from)
}

func (s *Stream) deliverSnapshot(c *connection, p *snapshot) error {
	now := time.Now()
	info := *p.info
	mark := func(kind Kind) error {
		return s.deliver(&Message{Kind: kind, LSN: p.from, sent: pgtime.Micros(now), ext: &info})
	}
	s.setState(StateSnapshot, nil)
	end := &resume.Place{Source: c.origin, Point: resume.Point{Through: p.from}}
	s.ledger.Forget()
	if s.snapshots.bare {
		if err := s.deliver(&Message{Kind: Progress, LSN: p.from, sent: pgtime.Micros(now), ext: end}); err != nil {
			return err
		}
		p.end(s, end)
		return nil
	}
	if err := mark(SnapshotBegin); err != nil {
		return err
	}
	if err := s.deliverRows(c, p); err != nil {
		return err
	}
	// If the keeper's connection is alive, so were its locks all the time. It is kept until the slot is: a server that is stopping in smart
	// mode waits for it, and would end the connection that holds the temporary slot when no ordinary session is left.
	ctx, cancel := context.WithTimeout(s.ctx, c.patience())
	defer cancel()
	if _, err := p.keeper.Query(ctx, "COMMIT"); err != nil {
		return pgfail.Failed("read the tables", err)
	}
	p.unlocked = true
	now = time.Now()
	info.at = end
	if err := mark(SnapshotEnd); err != nil {
		return err
	}
	p.end(s, end)
	return nil
}

// end notes that everything was delivered. at is what the last message's checkpoint says.
func (p *snapshot) end(s *Stream, at *resume.Place) {
	p.ended = true
	if s.ledger.Storing {
		s.ledger.MarkAt(*at)
	}
}

// deliverRows delivers what the workers read.
func (s *Stream) deliverRows(c *connection, p *snapshot) error {
	ctx, cancel := context.WithCancel(s.ctx)
	r := &copiers{stream: s, conn: c, snapshot: p, batches: make(chan batch, 2*s.cfg.snapshot.jobs), failed: make(chan error, 1)}
	var workers sync.WaitGroup
	for range min(s.cfg.snapshot.jobs, len(p.parts)) {
		workers.Go(func() { r.work(ctx) })
	}
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	defer func() {
		cancel()
		<-done
	}()
	m := &Message{}
	for {
		b, ok, err := s.nextBatch(c, r, done)
		if !ok || err != nil {
			return err
		}
		*m = Message{Kind: Read, LSN: p.from, Relation: b.part.table.rel, sent: pgtime.Micros(b.readAt), ext: c.origin}
		for _, row := range b.rows {
			m.data = row
			if err := s.deliver(m); err != nil {
				return err
			}
		}
		b.part.table.count(b)
	}
}

// nextBatch waits for rows; false: there are no more.
func (s *Stream) nextBatch(c *connection, r *copiers, done <-chan struct{}) (b batch, ok bool, err error) {
	for {
		now := time.Now()
		next, err := s.attend(c, now)
		if err != nil {
			return b, false, err
		}
		select {
		case b = <-r.batches:
			return b, true, nil
		default:
		}
		if !s.sleep(waiting, ledger.Nothing) {
			continue
		}
		s.timer.Reset(next.Sub(now))
		select {
		case b = <-r.batches:
			ok = true
		case err = <-r.failed:
		case <-done:
			done = nil
		case <-s.timer.C:
		case <-s.wakeup:
		}
		s.asleep.Store(awake)
		if ok || err != nil {
			return b, ok, err
		}
		if done == nil && len(r.batches) == 0 { // nobody sends any more
			select {
			case err = <-r.failed:
			default:
			}
			return b, false, err
		}
	}
}

// attend is Stream.attend while a snapshot is taken: there is nothing to tell the server yet.
func (p *snapshot) attend(s *Stream, c *connection, now time.Time) (time.Time, error) {
	s.ledger.Tick(now)
	flushes := s.flushes.pending()
	s.ledger.Advance()
	s.publish(c)
	s.flushes.release(flushes)
	next := s.watchdog(now)
	if now.Before(p.checkAt) {
		return earliest(next, p.checkAt), nil
	}
	if err := c.Check(); err != nil {
		return now, pgfail.Failed("hold the snapshot", err)
	}
	if p.keeper != nil && !p.unlocked && p.keeping.TryLock() {
		err := p.keeper.Check()
		p.keeping.Unlock()
		if err != nil {
			return now, pgfail.Failed("hold the tables' locks", err)
		}
	}
	p.checkAt = now.Add(checkEvery)
	return earliest(next, p.checkAt), nil
}

// keepSlot makes the permanent slot, now that all rows are acknowledged: a copy of the temporary one, with its position. The copy has
// two-phase and failover off (create_logical_replication_slot in src/backend/replication/slotfuncs.c); START_REPLICATION switches
// the former on.
//
// A stop that comes now must not undo it: it may take until the farewell's timeout.
func (s *Stream) keepSlot(c *connection) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), c.patience())
	defer cancel()
	stopped := context.AfterFunc(s.ctx, func() { time.AfterFunc(s.cfg.closeTimeout, cancel) })
	defer stopped()
	p := c.snapshot
	begun := resume.Place{Source: c.origin, Point: resume.Point{Through: p.from}}
	s.feed.(*changes).point = begun.Point
	s.snapshots.kept, s.known, s.told = p.from, p.from, p.from // should the answer be lost
	s.ledger.Begin(p.from)
	s.ledger.Start(begun)
	if s.cfg.slot != "" {
		_, err := c.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_copy_logical_replication_slot(%s, %s, false)", pgsql.Literal(p.slot), pgsql.Literal(s.cfg.slot)))
		if err != nil {
			return p.copyError(ctx, c, s.cfg.slot, err)
		}
		if err := s.setFailover(ctx, c); err != nil {
			return err
		}
		if _, err := c.Query(ctx, "DROP_REPLICATION_SLOT "+pgsql.Quoted(p.slot)); err != nil {
			return pgfail.Failed("drop the temporary slot", err)
		}
	}
	s.snapshots.due, c.snapshot = false, nil
	return nil
}

func (s *Stream) setFailover(ctx context.Context, c *connection) error {
	if !s.cfg.failover || s.snapshots.kept == 0 {
		return nil
	}
	if _, err := c.Query(ctx, "ALTER_REPLICATION_SLOT "+pgsql.Quoted(s.cfg.slot)+" (FAILOVER true)"); err != nil {
		return pgfail.Failed("set the slot's failover", err)
	}
	return nil
}

func (p *snapshot) copyError(ctx context.Context, c *connection, name string, err error) error {
	if ctx.Err() != nil {
		return pgfail.Failed("make the slot", err)
	}
	if sqlstate.Of(err) == sqlstate.NotPrerequisite {
		if slot, lookErr := slots.Read(ctx, c.Query, p.slot); lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return slots.Invalidated(p.slot, "", err)
		}
	}
	return slots.CreateError(ctx, c.Conn, name, pgoutputPlugin, err)
}

// drain waits, at a stop, for the acknowledgement of a snapshot that was delivered as a whole, to keep the slot. Of any other
// nothing can be kept, so that there is nothing to wait for.
func (p *snapshot) drain(s *Stream, c *connection) error {
	s.setState(StateDraining, nil)
	end := time.Now().Add(s.cfg.drainTimeout)
	for p.ended {
		now := time.Now()
		s.attention.Store(false)
		next, err := p.attend(s, c, now)
		if err != nil {
			return err
		}
		if s.isSettled(p) {
			if err := s.keepSlot(c); err != nil {
				return err
			}
			break
		}
		if s.closing.Load() || !now.Before(end) {
			break
		}
		s.wait(now, earliest(next, end), ledger.All, nil, &Message{}, nil)
	}
	if c.snapshot != nil {
		s.cfg.log.Info("stopped before the snapshot was acknowledged: nothing is left of it", "slot", s.source.Slot)
	}
	return errStopped // a farewell is for a stream
}

func (p *snapshot) close() {
	if p.keeper != nil {
		p.keeper.Close()
		p.keeper = nil
	}
}

// snapshots is what a stream knows of its snapshot over all attempts. It belongs to the owner.
type snapshots struct {
	due     bool // one is to be taken before the stream
	bare    bool // without rows: it makes the slot, once the first checkpoint is stored
	attempt int
	kept    LSN // where the permanent slot begins, if it was made; 0: that was not tried
}

// TableProgress is how much of a table's rows a snapshot has delivered.
type TableProgress struct {
	Table          string // as Relation.String has it
	Rows           int64
	EstimatedRows  int64 // by the statistics of the last ANALYZE or VACUUM; 0: not known
	Bytes          int64 // of the rows, as COPY sends them
	EstimatedBytes int64 // the table's size on disk, which is what is read: Bytes come to less, or to more
	Done           bool
}

func (p *snapshot) progress() []TableProgress {
	if p == nil {
		return nil
	}
	var all []TableProgress
	for _, t := range p.tables {
		all = append(all, t.progress()...)
	}
	return all
}

func (t *source) progress() []TableProgress {
	if t == nil {
		return nil
	}
	return []TableProgress{{t.rel.String(), t.rows.Load(), t.estimatedRows, t.bytes.Load(), t.estimatedBytes, t.left.Load() == 0}}
}

// source is a table whose rows are read.
type source struct {
	rel     *Relation
	columns []string // as in SELECT
	text    []bool   // of these, which are text although binary is asked for
	where   string   // the publication's condition and ours

	generated bool // see published

	estimatedRows, estimatedBytes int64
	rows, bytes                   atomic.Int64
	left                          atomic.Int32 // parts that are not delivered
}

func (t *source) count(b batch) {
	t.rows.Add(int64(len(b.rows)))
	t.bytes.Add(b.bytes)
	if b.last {
		t.left.Add(-1)
	}
}
