// Package postgres is a pipeline.Sink that applies changes to the tables of a PostgreSQL database.
//
//	sink, err := postgres.Open(ctx, targetDSN)
//	if err != nil {
//		return err
//	}
//	defer sink.Close()
//	stream, err := walchan.Subscribe(ctx, sourceDSN, walchan.WithSlot("shop"), walchan.WithPublication("shop"),
//		walchan.WithTransactions(), walchan.WithCheckpointFrom(sink.Checkpoint))
//	if err != nil {
//		return err
//	}
//	g := pipeline.New(ctx, stream, 30*time.Second)
//	transactions := pipeline.Transactions(g, g.Source(), pipeline.Limit{})
//	batches := pipeline.Concat(g, pipeline.Batch(g, transactions, pipeline.Limit{Items: 1000}))
//	pipeline.Into(g, batches, pipeline.Retry(sink, pipeline.RetryPolicy{}))
//	return g.Wait()
//
// # Each change once
//
// A batch is one transaction of the target, and the checkpoint of its last message is stored in the same transaction, in the
// table walchan_position. The stream begins after it. From Checkpoint on a Sink holds an advisory lock, which keeps other Sinks
// out until its last transaction has ended. A connection that was lost without a word has the lock until the target notices
// (tcp_keepalives_idle there). Until then other Sinks get ErrBusy.
//
// A process that waits for a slot (walchan.WithWaitForSlot) asks for the lock once it has the slot.
//
// The messages must come in the stream's order. With batches of whole transactions, as above, the target never shows a part
// of one.
//
// # Lost changes
//
// A target may become older: it is restored, or fails over to a standby that lagged. Then it lacks changes that the slot does not
// have any more. The process that sees it ends with ErrTargetLost. Every later one ends with
// walchan.ErrSlotMoved, which Subscribe returns: the slot is ahead of the checkpoint. ErrTargetLost is that error, too
// (errors.Is). If the source becomes older, Subscribe returns walchan.ErrDiverged or walchan.ErrSlotMissing. In each case
// the tables are to be copied again: see walchan.SubscribeAnew, with WithSnapshot, and WithEmptying of this package.
//
// # How changes are applied
//
// A batch is folded: of several changes to one row the last one counts. Inserts and updates are upserts, many rows a
// statement, so that a target that has some rows already is no obstacle; deletes of rows that are not there do nothing.
// Where folding hits a constraint, because rows have swapped a unique value, the batch is applied again change by
// change, as the source did. Large values that an update left alone (unchanged TOAST) are left alone. An update of the key
// is one of the target, too, where it must not be GENERATED ALWAYS AS IDENTITY; other columns that are so are set when a row is
// inserted, and not updated. TRUNCATE is done without CASCADE, for the tables that the source names.
//
// Rows are found by the columns of the replica identity, for which the target needs a unique index, such as its primary
// key; with REPLICA IDENTITY FULL by the target's primary key. A table without either takes inserts alone, and may
// get rows of a snapshot twice.
//
// Columns are matched by name. Those that only the target has are left alone; one that only the source has is an error until
// somebody adds it. Generated columns of the target are left out. Triggers and foreign keys of the target do what they do for
// any client; to have neither, as PostgreSQL's own subscriptions do, put options='-c session_replication_role=replica'
// into the connection string.
//
// # Existing rows
//
// Rows of a snapshot (walchan.WithSnapshot) are upserted, too. A snapshot that was interrupted leaves rows that its next attempt,
// or the next process, may know nothing of, because they were deleted meanwhile. So give WithEmptying, which has each attempt begin
// with empty tables. Without it the sink warns if a table has rows when a snapshot begins.
//
// The stream must have neither walchan.WithBinary nor walchan.WithTwoPhase.
package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// Sink applies messages to a database. It is a pipeline.Sink and a pipeline.Checkpointer.
type Sink struct {
	connString string
	cfg        config

	conn   *pgconn.PgConn // it holds the lock; nil: to be made
	place  place          // that is stored
	known  bool           // this sink has read or stored it
	plans  map[*walchan.Relation]*plan
	warned map[string]bool // tables that lacked rows
}

// Option changes what Open does.
type Option func(*config)

type config struct {
	name  string
	empty bool
	table func(*walchan.Relation) (schema, name string, ok bool)
	log   *slog.Logger
}

// WithName stores the checkpoint under this name, overriding the default of "walchan": for several sinks in one database.
func WithName(name string) Option { return func(c *config) { c.name = name } }

// WithTables says which table of the target gets the changes of a table of the source, overriding the default of the same
// schema and name. Without ok they are left out.
func WithTables(f func(source *walchan.Relation) (schema, name string, ok bool)) Option {
	return func(c *config) { c.table = f }
}

// WithEmptying empties the tables whose rows follow, by TRUNCATE, when a snapshot begins or starts over (walchan.SnapshotBegin),
// so that they equal those of the source at its end. Rows that come among the changes (Stream.ReadRows) empty nothing.
func WithEmptying() Option { return func(c *config) { c.empty = true } }

// WithLogger logs to l, overriding the default of slog.Default(). Row data is never logged.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.log = l } }

// Open tries the connection to the target, and makes the table walchan_position if it is missing. One of an older version gets
// the column that it lacks, for which the role must own the table.
//
// connString is a URL or a keyword/value string, as for pgx and libpq; the connection must be the sink's own, which a pooler
// in transaction mode does not give.
func Open(ctx context.Context, connString string, opts ...Option) (*Sink, error) {
	s := &Sink{connString: connString, plans: map[*walchan.Relation]*plan{}, warned: map[string]bool{}, cfg: config{
		name:  "walchan",
		table: func(r *walchan.Relation) (string, string, bool) { return r.Schema, r.Name, true },
		log:   slog.Default(),
	}}
	for _, o := range opts {
		o(&s.cfg)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Checkpoint takes the lock, unless this sink has it already, and returns what is stored. Give it to walchan.WithCheckpointFrom. If
// another process has the lock for 30 seconds it is ErrBusy.
func (s *Sink) Checkpoint(ctx context.Context) (walchan.Checkpoint, error) {
	if s.conn != nil {
		if p, err := s.read(ctx, s.conn); err == nil {
			return p.checkpoint, s.take(p)
		}
		s.Close() // somebody has ended the connection
	}
	if err := s.connect(ctx); err != nil {
		return walchan.Checkpoint{}, err
	}
	return s.place.checkpoint, nil
}

// Close ends the connection to the target.
func (s *Sink) Close() error {
	if s.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.conn.Close(ctx)
	s.conn = nil
	return err
}

// Write is WriteCheckpoint with the checkpoint of the batch's last message.
func (s *Sink) Write(ctx context.Context, batch []walchan.Message) error {
	var last walchan.Checkpoint
	for i := len(batch) - 1; i >= 0 && last.IsZero(); i-- {
		last = batch[i].Checkpoint()
	}
	return s.WriteCheckpoint(ctx, batch, last)
}

// WriteCheckpoint applies the batch and stores the checkpoint in one transaction. If the checkpoint is zero, what is stored
// stays. A change that the target's constraints or types refuse is a *pipeline.RefusedError. After any other error the batch may
// be written again, and a lost connection is replaced. Errors of the stream's options and ErrTargetLost are backoff's PermanentError.
func (s *Sink) WriteCheckpoint(ctx context.Context, batch []walchan.Message, c walchan.Checkpoint) error {
	if _, err := c.Value(); err != nil {
		return backoff.Permanent(err)
	}
	if s.conn == nil || s.conn.IsClosed() {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	if len(s.plans) > 1000 {
		clear(s.plans) // relations come anew with every connection of the stream
	}
	err := s.apply(ctx, batch, c, false)
	if isRefusal(err) {
		err = s.apply(ctx, batch, c, true) // one by one shows which, if it is refused then
	}
	if err != nil {
		clear(s.plans) // the target's tables may be altered before the next attempt
	}
	return err
}

// apply applies what of the batch the stored checkpoint does not cover, folded or one by one.
func (s *Sink) apply(ctx context.Context, batch []walchan.Message, c walchan.Checkpoint, oneByOne bool) error {
	script := script{conn: s.conn, item: -1}
	fold := newFold(&script)
	for i, m := range batch {
		if s.place.covers(m) {
			continue
		}
		if oneByOne {
			fold.flush()
			script.item = i
		}
		if err := s.add(ctx, fold, m); err != nil {
			return itemError(i, err)
		}
	}
	fold.flush()
	script.item = -1
	next, err := s.place.next(c)
	if err != nil {
		return err
	}
	script.add(s.place.store(s.cfg.name, next))
	if err := script.run(ctx); err != nil {
		return err
	}
	s.place = next
	s.warnOfMissing(&script)
	return nil
}

// add folds one message in.
func (s *Sink) add(ctx context.Context, f *fold, m walchan.Message) error {
	if m.Tx != nil && m.Tx.GID != "" {
		return errPrepared
	}
	switch m.Kind {
	case walchan.Truncate:
		tables, _, restart := m.Truncated()
		return s.truncate(ctx, f, tables, restart)
	case walchan.SnapshotBegin:
		switch snapshot := m.Snapshot(); {
		case snapshot.Among:
		case s.cfg.empty:
			return s.truncate(ctx, f, snapshot.Tables, false)
		default:
			return s.warnOfRows(ctx, snapshot.Tables)
		}
	}
	row, old := m.New(), m.Old()
	if m.Relation == nil || row.Len()+old.Len() == 0 {
		return nil
	}
	p, err := s.plan(ctx, m.Relation)
	if p == nil || err != nil {
		return err
	}
	switch m.Kind {
	case walchan.Delete:
		return f.remove(p, old)
	case walchan.Update:
		return f.update(p, old, row)
	}
	return f.insert(p, row)
}

func (s *Sink) truncate(ctx context.Context, f *fold, tables []*walchan.Relation, restart bool) error {
	var plans []*plan
	for _, rel := range tables {
		p, err := s.plan(ctx, rel)
		if err != nil {
			return err
		}
		if p != nil {
			plans = append(plans, p)
		}
	}
	f.truncate(plans, restart)
	return nil
}

// warnOfRows says that the rows of a snapshot come into tables that have some.
func (s *Sink) warnOfRows(ctx context.Context, tables []*walchan.Relation) error {
	var with []string
	for _, rel := range tables {
		p, err := s.plan(ctx, rel)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		rows, err := query(ctx, s.conn, "SELECT FROM "+p.name+" LIMIT 1")
		if err != nil {
			return fmt.Errorf("look for rows in the target: %w", err)
		}
		if len(rows) > 0 {
			with = append(with, p.name)
		}
	}
	if len(with) > 0 {
		s.cfg.log.Warn("a snapshot begins, and the target has rows already: those that are gone in the source stay; WithEmptying removes them", "tables", strings.Join(with, ", "))
	}
	return nil
}

// warnOfMissing says, once a table, that rows were to be changed that the target does not have.
func (s *Sink) warnOfMissing(script *script) {
	for i, st := range script.statements {
		if st.expect > script.affected[i] && !s.warned[st.table] {
			s.warned[st.table] = true
			s.cfg.log.Warn("rows that are to be updated are missing in the target: it was not a copy when the slot was made",
				"table", st.table, "missing", st.expect-script.affected[i])
		}
	}
}

var (
	_ pipeline.Sink[walchan.Message]         = (*Sink)(nil)
	_ pipeline.Checkpointer[walchan.Message] = (*Sink)(nil)
)
