// Package postgres is a pipeline.Sink that applies changes to the tables of a PostgreSQL database.
//
//	sink, err := postgres.Open(ctx, targetDSN, stream.Source())
//	if err != nil {
//		return err
//	}
//	defer sink.Close()
//	g := pipeline.New(ctx, stream, 30*time.Second)
//	transactions := pipeline.Transactions(g, g.Source(), pipeline.Limit{})
//	batches := pipeline.Concat(g, pipeline.Batch(g, transactions, pipeline.Limit{Items: 1000}))
//	pipeline.Into(g, batches, pipeline.Retry(sink, pipeline.RetryPolicy{}))
//	return g.Wait()
//
// # Each change once
//
// A batch is one transaction of the target, and the position of its last message is stored in the same transaction, in the
// table walchan_position. What the stream sends again after a crash is recognised by that and left out. While a Sink is
// open it holds an advisory lock, so that there is one at a time, and none before the last one's transaction has ended. A
// connection that was lost without a word has the lock until the target notices (tcp_keepalives_idle there): so long it is ErrBusy. The
// stored position belongs to a walchan.Source; under another cluster, database or slot Open fails with ErrSource.
//
// The messages must come in the stream's order. With batches of whole transactions, as above, the target never shows a part
// of one.
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
// or the next process, may know nothing of, for they were deleted meanwhile. WithEmptying has each attempt begin with empty
// tables.
//
// The stream must have neither walchan.WithBinary nor walchan.WithTwoPhase.
package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// Sink applies messages to a database. It is a pipeline.Sink.
type Sink struct {
	connString string
	source     walchan.Source
	cfg        config

	conn     *pgconn.PgConn // nil: to be made
	position walchan.Position
	plans    map[*walchan.Relation]*plan
	warned   map[string]bool // tables that lacked rows
}

// Option changes what Open does.
type Option func(*config)

type config struct {
	name  string
	empty bool
	table func(*walchan.Relation) (schema, name string, ok bool)
	log   *slog.Logger
}

// WithName stores the position under this name, overriding the default of "walchan": for several sinks in one database.
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

// Open connects to the target, makes the table walchan_position if it is missing, and reads the position. source is that of
// the stream (walchan.Stream.Source).
//
// connString is a URL or a keyword/value string, as for pgx and libpq; the connection must be the sink's own, which a pooler
// in transaction mode does not give. The errors are ErrSource, ErrBusy and the server's.
func Open(ctx context.Context, connString string, source walchan.Source, opts ...Option) (*Sink, error) {
	s := &Sink{connString: connString, source: source, warned: map[string]bool{}, cfg: config{
		name:  "walchan",
		table: func(r *walchan.Relation) (string, string, bool) { return r.Schema, r.Name, true },
		log:   slog.Default(),
	}}
	for _, o := range opts {
		o(&s.cfg)
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	return s, nil
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

// Write applies the batch in one transaction. A change that the target's constraints or types refuse is a
// *pipeline.RefusedError. After any other error the batch may be written again: a lost connection is made anew. Errors that are
// the stream's options, or ErrSource, are backoff's PermanentError.
func (s *Sink) Write(ctx context.Context, batch []walchan.Message) error {
	if s.conn == nil || s.conn.IsClosed() {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	if len(s.plans) > 1000 {
		clear(s.plans) // relations come anew with every connection of the stream
	}
	err := s.apply(ctx, batch, false)
	if isRefusal(err) {
		err = s.apply(ctx, batch, true) // one by one shows which, if it is refused then
	}
	if err != nil {
		clear(s.plans) // the target's tables may be altered before the next attempt
	}
	return err
}

// apply applies what of the batch lies beyond the stored position, folded or one by one.
func (s *Sink) apply(ctx context.Context, batch []walchan.Message, oneByOne bool) error {
	script := script{conn: s.conn, item: -1}
	fold, last := newFold(&script), s.position
	for i, m := range batch {
		p, ok := m.Position()
		if ok && p.Compare(s.position) <= 0 && (m.Tx == nil || !m.Tx.Redelivered) {
			continue
		}
		if oneByOne {
			fold.flush()
			script.item = i
		}
		if err := s.add(ctx, fold, m); err != nil {
			return itemError(i, err)
		}
		if ok && p.Compare(last) > 0 {
			last = p
		}
	}
	fold.flush()
	if len(script.statements) == 0 {
		return nil
	}
	script.item = -1
	script.add(statement{sql: storePosition, params: [][]byte{[]byte(s.cfg.name), []byte(last.Commit.String()), fmt.Append(nil, last.Ordinal)}})
	if err := script.run(ctx); err != nil {
		return err
	}
	s.position = last
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
		if snapshot := m.Snapshot(); s.cfg.empty && !snapshot.Among {
			return s.truncate(ctx, f, snapshot.Tables, false)
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

var _ pipeline.Sink[walchan.Message] = (*Sink)(nil)
