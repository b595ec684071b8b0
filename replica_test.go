package walchan_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A replica kept by a small consumer equals its source after a random workload: changes, toasted values, changed keys,
// TRUNCATE, DDL, savepoints, prepared transactions, several sessions at once, and connections that break. WALCHAN_SEED is
// the first seed, WALCHAN_SEEDS how many there are, WALCHAN_STEPS how long each workload is.
func TestReplica(t *testing.T) {
	version := pgtest.Shared(t).Version()
	first, seeds, steps := env(t, "WALCHAN_SEED", 1), env(t, "WALCHAN_SEEDS", 1), env(t, "WALCHAN_STEPS", 120)
	for seed := first; seed < first+seeds; seed++ {
		for _, streaming := range []string{"off", "on", "parallel", "immediate"} {
			for _, format := range []string{"text", "binary"} {
				for _, twoPhase := range []bool{false, true} {
					if version < 15 && twoPhase || version < 16 && (streaming == "parallel" || streaming == "immediate") {
						continue
					}
					t.Run(fmt.Sprintf("seed %d, %s, %s, two-phase %v", seed, streaming, format, twoPhase), func(t *testing.T) {
						t.Parallel()
						replicate(t, uint64(seed), steps, streaming, format == "binary", twoPhase)
					})
				}
			}
		}
	}
}

func env(t *testing.T, name string, unset int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return unset
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func replicate(t *testing.T, seed uint64, steps int, streaming string, binary, twoPhase bool) {
	source, target := pgtest.Database(t), pgtest.Database(t)
	for _, db := range []pgtest.DB{source, target} {
		db.Exec(t, sourceTables)
	}
	source.Exec(t, "CREATE TABLE marker (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR ALL TABLES")
	target.Exec(t, "CREATE TABLE marker (id int PRIMARY KEY)")

	opts := []walchan.Option{walchan.WithSlot(source.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"), walchan.WithTransactions(),
		walchan.WithStatusInterval(200 * time.Millisecond)}
	settings := "-c logical_decoding_work_mem=64kB"
	switch streaming {
	case "on":
		opts = append(opts, walchan.WithStreaming(), walchan.WithSpool(1<<20, t.TempDir()))
	case "parallel":
		opts = append(opts, walchan.WithPluginOption("streaming", "parallel"))
	case "immediate": // each change by itself
		opts = append(opts, walchan.WithStreaming())
		settings += " -c debug_logical_replication_streaming=immediate"
	}
	if binary {
		opts = append(opts, walchan.WithBinary())
	}
	if twoPhase {
		opts = append(opts, walchan.WithTwoPhase())
	}
	s, err := walchan.Subscribe(t.Context(), source.DSN("options='"+settings+"'"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	r := newReplica(t, target, binary)
	done := make(chan error, 1)
	go func() { done <- r.follow(s) }()
	w := newWorkload(t, source, seed)
	w.run(steps, func() int64 { return s.Stats().Spooled })
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("the replica: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the replica does not come to the end: %+v", s.Stats())
	}
	for _, table := range replicated {
		q := "SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY id)), '') FROM " + table + " t"
		if got, want := target.Query(t, q), source.Query(t, q); got != want {
			t.Errorf("%s: the replica has %s, the source %s", table, got, want)
		}
	}
	for _, kind := range []string{"insert", "update", "delete", "truncate", "unchanged", "with old row", "key changed", "text values"} {
		if r.counts[kind] == 0 {
			t.Errorf("the workload has none of: %s", kind)
		}
	}
	if prepared := r.counts["prepare"]; (prepared > 0) != twoPhase || (r.counts["binary values"] > 0) != binary {
		t.Errorf("%d prepared transactions, %d binary values", prepared, r.counts["binary values"])
	}
	if (w.spooled > 0) != (streaming != "off") {
		t.Errorf("%d bytes were spooled at most", w.spooled)
	}
	t.Logf("%v; replica: %v; spooled at most %d kB; %d reconnects", w.counts, r.counts, w.spooled>>10, s.Stats().Reconnects)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

var replicated = []string{"a", `"B b"`, "c"}

// Tables with each kind of replica identity; what is long is toasted and not compressed.
const sourceTables = `
CREATE TYPE mood AS ENUM ('fine', 'not "so" fine');
CREATE TABLE a (id int PRIMARY KEY, v text, big text, n numeric, at timestamptz, m mood, list int[], bytes bytea, doc jsonb, d double precision, u uuid, iv interval);
CREATE TABLE "B b" (LIKE a INCLUDING ALL);
CREATE TABLE c (LIKE a, k bigserial PRIMARY KEY);
CREATE UNIQUE INDEX c_id ON c (id);
ALTER TABLE a ALTER big SET STORAGE EXTERNAL;
ALTER TABLE "B b" ALTER big SET STORAGE EXTERNAL;
ALTER TABLE c ALTER big SET STORAGE EXTERNAL;
ALTER TABLE "B b" REPLICA IDENTITY FULL;
ALTER TABLE c REPLICA IDENTITY USING INDEX c_id`

// workload is what is done to the source: by several sessions, in turns, so that it is the same each time with the same seed,
// but for what a lock makes fail.
type workload struct {
	t        *testing.T
	db       pgtest.DB
	rnd      *rand.Rand
	sessions []*client
	prepared []string
	ids      int
	columns  int
	gids     int
	spooled  int64
	counts   map[string]int
}

// client is a session.
type client struct {
	conn  *pgconn.PgConn
	n     int  // it has rows of its own: id % 3 = n
	depth int  // 0: no transaction, 1: no savepoint
	alone bool // it has locked a table against all others
}

func newWorkload(t *testing.T, db pgtest.DB, seed uint64) *workload {
	w := &workload{t: t, db: db, rnd: rand.New(rand.NewPCG(seed, 4)), counts: map[string]int{}}
	for n := range 3 {
		conn := pgtest.Connect(t, db.DSN("options='-c lock_timeout=5ms'")).PgConn()
		w.sessions = append(w.sessions, &client{conn: conn, n: n})
		w.exec(w.sessions[n], fmt.Sprintf("SELECT setseed(%f)", w.rnd.Float64()))
	}
	return w
}

func (w *workload) run(steps int, spooled func() int64) {
	w.ids = 300
	for _, table := range replicated {
		w.db.Exec(w.t, fmt.Sprintf("INSERT INTO %s (%s) SELECT g, %s FROM generate_series(0, %d) g", table, rowColumns, randomRow, 3*w.ids-1))
	}
	w.overture(w.sessions[0])
	for i := range steps {
		w.step(w.sessions[w.rnd.IntN(len(w.sessions))])
		w.spooled = max(w.spooled, spooled())
		if i%max(60, steps/4) == 40 {
			w.db.Exec(w.t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+w.db.Name+"'")
		}
	}
	for _, c := range w.sessions {
		if c.depth > 0 {
			w.exec(c, []string{"COMMIT", "ROLLBACK"}[w.rnd.IntN(2)])
		}
	}
	for len(w.prepared) > 0 {
		w.outcome(w.sessions[0])
	}
	for _, table := range replicated { // so that columns that were added or dropped at last are seen
		w.db.Exec(w.t, "INSERT INTO "+table+" (id) VALUES (-1)")
	}
	w.db.Exec(w.t, "INSERT INTO marker VALUES (1)")
}

// overture is one of each, whatever the seed.
func (w *workload) overture(c *client) {
	w.columns++
	for _, sql := range []string{
		"TRUNCATE c", fmt.Sprintf("INSERT INTO c (%s) SELECT g, %s FROM generate_series(0, %d) g", rowColumns, randomRow, 3*w.ids-1),
		"UPDATE a SET id = id + 3000000 WHERE id < 3", `UPDATE "B b" SET id = id + 3000000, big = repeat('new', 1000) WHERE id < 3`, "UPDATE c SET id = id + 3000000 WHERE id < 3",
		"UPDATE a SET n = 1 WHERE big IS NOT NULL AND id < 60", "DELETE FROM c WHERE id BETWEEN 10 AND 12",
		fmt.Sprintf("ALTER TABLE a ADD COLUMN c%d text", w.columns), fmt.Sprintf("UPDATE a SET c%d = 'c' WHERE id < 30", w.columns),
		"BEGIN", "DELETE FROM a WHERE id = 20", "SAVEPOINT s1", "DELETE FROM a WHERE id < 100", "ROLLBACK TO s1", "UPDATE a SET id = id + 3000000 WHERE id = 21", "RELEASE s1", "COMMIT",
		"BEGIN", "UPDATE a SET id = id + 3000000 WHERE id = 24", `DELETE FROM "B b" WHERE id = 30`,
	} {
		if !w.exec(c, sql) {
			w.t.Fatal(sql)
		}
	}
	w.prepare(c)
	w.outcome(c)
}

func (w *workload) step(c *client) {
	n := w.rnd.IntN(100)
	if c.alone && n%2 == 0 { // not for long
		n = 86 + n/8
	}
	if c.depth == 0 {
		switch {
		case n < 30:
			w.exec(c, w.change(c))
		case n < 70 && len(w.prepared) > 0: // it may have locked a table against all others
			w.outcome(c)
		default:
			w.exec(c, "BEGIN")
		}
		return
	}
	switch {
	case n < 44:
		w.exec(c, w.change(c))
	case n < 52:
		w.exec(c, w.bulk(c))
	case n < 68:
		w.exec(c, fmt.Sprintf("SAVEPOINT s%d", c.depth))
	case n < 83 && c.depth > 1:
		w.exec(c, fmt.Sprintf("%s s%d", []string{"RELEASE", "ROLLBACK TO"}[n%2], c.depth-1))
	case n < 85:
		c.alone = w.exec(c, w.ddl())
	case n < 86:
		c.alone = w.exec(c, "TRUNCATE "+strings.Join(replicated[:1+w.rnd.IntN(2)], ", "))
	case n < 92:
		w.exec(c, "COMMIT")
	case n < 94:
		w.exec(c, "ROLLBACK")
	case len(w.prepared) < 2:
		w.prepare(c)
	}
}

// exec runs a statement, which may fail, for the lock is another's.
func (w *workload) exec(c *client, sql string) bool {
	err := c.conn.Exec(w.t.Context(), sql).Close()
	verb, _, _ := strings.Cut(sql, " ")
	switch {
	case err != nil && c.conn.IsClosed():
		w.t.Fatalf("%s: %v", sql, err)
	case err != nil && c.depth == 0:
		verb = "failed"
	case err != nil && c.depth > 1:
		verb = "failed"
		w.exec(c, fmt.Sprintf("ROLLBACK TO s%d", c.depth-1))
	case err != nil:
		verb = "failed"
		w.exec(c, "ROLLBACK")
	case verb == "BEGIN":
		c.depth = 1
	case verb == "SAVEPOINT":
		c.depth++
	case verb == "RELEASE":
		c.depth--
	case verb == "COMMIT", verb == "ROLLBACK" && !strings.HasPrefix(sql, "ROLLBACK TO"), verb == "PREPARE":
		if !strings.Contains(sql, "PREPARED") {
			c.depth, c.alone = 0, false
		}
	}
	w.counts[verb]++
	return err == nil
}

func (w *workload) prepare(c *client) {
	w.gids++
	gid := fmt.Sprintf("%s %d", w.db.Name, w.gids)
	if w.exec(c, "PREPARE TRANSACTION '"+gid+"'") {
		w.prepared = append(w.prepared, gid)
	}
}

func (w *workload) outcome(c *client) {
	i := w.rnd.IntN(len(w.prepared))
	if !w.exec(c, []string{"COMMIT", "ROLLBACK"}[w.rnd.IntN(2)]+" PREPARED '"+w.prepared[i]+"'") {
		w.t.Fatalf("%s has no outcome", w.prepared[i])
	}
	w.prepared = append(w.prepared[:i], w.prepared[i+1:]...)
}

const randomRow = `md5(g::text || random()), CASE WHEN random() < 0.3 THEN repeat(md5(random()::text), 100) END, round(random()::numeric * 1000, 3), now() + random() * interval '1 day',
	(CASE WHEN random() < 0.5 THEN 'fine' ELSE 'not "so" fine' END)::mood, ARRAY[g, NULL, 3], decode(md5(g::text), 'hex'), jsonb_build_object('g', g, 'r', random()),
	random(), md5(random()::text)::uuid, random() * interval '100 days'`

const rowColumns = `id, v, big, n, at, m, list, bytes, doc, d, u, iv`

func (w *workload) table() string { return replicated[w.rnd.IntN(len(replicated))] }

// some is a condition for some rows of the session.
func (w *workload) some(c *client, n int) string {
	from := 3 * w.rnd.IntN(w.ids+1)
	return fmt.Sprintf(" WHERE id BETWEEN %d AND %d AND id %% 3 = %d", from, from+3*n, c.n)
}

func (w *workload) insert(c *client, n int) string {
	from := 3*w.ids + c.n
	w.ids += n
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT g, %s FROM generate_series(%d, %d, 3) g", w.table(), rowColumns, randomRow, from, from+3*(n-1))
}

func (w *workload) change(c *client) string {
	switch w.rnd.IntN(8) {
	case 0, 1, 2:
		return w.insert(c, 1+w.rnd.IntN(5))
	case 3: // toasted values are not changed
		return "UPDATE " + w.table() + " SET v = md5(random()::text), n = NULL" + w.some(c, 60)
	case 4:
		return "UPDATE " + w.table() + " SET big = repeat(md5(random()::text), 120)" + w.some(c, 4)
	case 5:
		w.ids += 30 // to where there are no rows
		return fmt.Sprintf("UPDATE %s SET id = id + %d", w.table(), 3*w.ids) + w.some(c, 5)
	case 6:
		return "DELETE FROM " + w.table() + w.some(c, 20)
	}
	return "UPDATE " + w.table() + " SET doc = NULL, list = list || 7, iv = -iv" + w.some(c, 30)
}

// bulk is more than the server keeps in memory.
func (w *workload) bulk(c *client) string {
	if w.rnd.IntN(3) == 0 {
		return "UPDATE " + w.table() + " SET v = md5(random()::text)" + w.some(c, 1<<20)
	}
	return w.insert(c, 100+w.rnd.IntN(200))
}

func (w *workload) ddl() string {
	w.columns++
	if w.rnd.IntN(2) == 0 && w.columns > 1 {
		return fmt.Sprintf("ALTER TABLE %s DROP COLUMN IF EXISTS c%d", w.table(), 1+w.rnd.IntN(w.columns-1))
	}
	return fmt.Sprintf("ALTER TABLE %s ADD COLUMN c%d %s", w.table(), w.columns, []string{"text", "numeric[]", "mood"}[w.rnd.IntN(3)])
}

// replica applies a stream to a database. What was prepared it keeps until it is committed.
type replica struct {
	conn     *pgconn.PgConn
	binary   bool
	shapes   map[string]*walchan.Relation // as the tables are
	tx       []walchan.Message
	open     *walchan.Tx
	prepared map[string][]walchan.Message
	counts   map[string]int
}

func newReplica(t *testing.T, db pgtest.DB, binary bool) *replica {
	conn := pgtest.Connect(t, db.DSN()).PgConn()
	return &replica{conn: conn, binary: binary, shapes: map[string]*walchan.Relation{}, prepared: map[string][]walchan.Message{}, counts: map[string]int{}}
}

// follow applies until there is a row in the table marker.
func (r *replica) follow(s *walchan.Stream) error {
	for m := range s.C() {
		done, err := r.take(m)
		if err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
		if m.Kind == walchan.Commit || m.Kind == walchan.Prepare || m.Kind == walchan.CommitPrepared {
			s.AckThrough(m)
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("closed: %w", s.Err())
}

func (r *replica) take(m walchan.Message) (done bool, err error) {
	r.counts[m.Kind.String()]++
	switch m.Kind {
	case walchan.Begin:
		r.open, r.tx = m.Tx, nil // if one is open it comes again, as a whole
		if m.Tx.Redelivered {
			r.counts["redelivered"]++
		}
		return false, nil
	case walchan.Prepare:
		r.prepared[m.Tx.GID] = r.tx
		r.open = nil
		return false, nil
	case walchan.RollbackPrepared:
		delete(r.prepared, m.Tx.GID)
		return false, nil
	case walchan.CommitPrepared:
		tx := r.prepared[m.Tx.GID] // none, if it has changed nothing
		delete(r.prepared, m.Tx.GID)
		return false, r.apply(tx)
	case walchan.Commit:
		r.open = nil
		return len(r.tx) > 0 && r.tx[0].Relation != nil && r.tx[0].Relation.Name == "marker", r.apply(r.tx)
	}
	if r.open == nil || r.open.XID != m.Tx.XID {
		return false, fmt.Errorf("outside of its transaction")
	}
	r.tx = append(r.tx, m)
	return false, nil
}

func (r *replica) apply(tx []walchan.Message) error {
	if err := r.exec("BEGIN"); err != nil {
		return err
	}
	for _, m := range tx {
		if err := r.change(m); err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
	}
	return r.exec("COMMIT")
}

func (r *replica) exec(sql string) error {
	if err := r.conn.Exec(context.Background(), sql).Close(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (r *replica) change(m walchan.Message) error {
	var p arguments
	if m.Relation != nil {
		if err := r.shape(m.Relation); err != nil {
			return err
		}
	}
	switch row := m.New(); m.Kind {
	case walchan.Insert:
		var names, values []string
		for i, c := range m.Relation.Columns {
			names, values = append(names, quoted(c.Name)), append(values, p.add(row, i))
		}
		return r.one(fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", m.Relation, strings.Join(names, ", "), strings.Join(values, ", ")), &p)
	case walchan.Update:
		var set []string
		for i, c := range m.Relation.Columns {
			if row.State(i) == walchan.Unchanged {
				r.counts["unchanged"]++
				continue
			}
			set = append(set, quoted(c.Name)+" = "+p.add(row, i))
		}
		if m.Old().Len() > 0 {
			if i := m.Relation.Index("id"); m.Old().Text(i) != row.Text(i) {
				r.counts["key changed"]++
			}
			row = m.Old()
			r.counts["with old row"]++
		}
		return r.one(fmt.Sprintf("UPDATE %s SET %s WHERE id = %s", m.Relation, strings.Join(set, ", "), p.add(row, m.Relation.Index("id"))), &p)
	case walchan.Delete:
		return r.one(fmt.Sprintf("DELETE FROM %s WHERE id = %s", m.Relation, p.add(m.Old(), m.Relation.Index("id"))), &p)
	case walchan.Truncate:
		tables, _, _ := m.Truncated()
		var names []string
		for _, rel := range tables {
			names = append(names, rel.String())
		}
		return r.exec("TRUNCATE " + strings.Join(names, ", "))
	}
	return fmt.Errorf("unexpected kind")
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// arguments are those of a statement, each in the format in which it came.
type arguments struct {
	values  [][]byte
	formats []int16
}

func (p *arguments) add(row walchan.Row, i int) string {
	var value []byte
	format := int16(0)
	switch row.State(i) {
	case walchan.Text:
		value = []byte(row.Text(i))
	case walchan.Binary:
		value, format = []byte(row.Text(i)), 1
	}
	p.values, p.formats = append(p.values, value), append(p.formats, format)
	return fmt.Sprintf("$%d", len(p.values))
}

// one runs a statement that must concern one row.
func (r *replica) one(sql string, p *arguments) error {
	for _, f := range p.formats {
		if f == 1 != r.binary && f == 1 {
			return fmt.Errorf("a binary value came unasked")
		}
		r.counts[[]string{"text values", "binary values"}[f]]++
	}
	result := r.conn.ExecParams(context.Background(), sql, p.values, nil, p.formats, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("%s: %w", sql, result.Err)
	}
	if n := result.CommandTag.RowsAffected(); n != 1 {
		return fmt.Errorf("%s: %d rows", sql, n)
	}
	return nil
}

// shape gives the table the columns that the source's has.
func (r *replica) shape(rel *walchan.Relation) error {
	was := r.shapes[rel.Name]
	if was == rel {
		return nil
	}
	r.shapes[rel.Name] = rel
	r.counts["descriptions"]++
	for _, c := range rel.Columns {
		if strings.HasPrefix(c.Name, "c") {
			if err := r.exec(fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s %s", rel, c.Name, c.TypeName)); err != nil {
				return err
			}
		}
	}
	if was == nil {
		return nil
	}
	for _, c := range was.Columns {
		if rel.Index(c.Name) < 0 {
			if err := r.exec(fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", rel, c.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}
