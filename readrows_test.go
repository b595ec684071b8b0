package walchan_test

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// rowCopy is what the messages make of one table: by id, the columns' texts. A value that it was not told is "?".
type rowCopy struct {
	table string
	rows  map[string][]string
	reads map[string]int
}

func newRowCopy(table string) *rowCopy {
	return &rowCopy{table, map[string][]string{}, map[string]int{}}
}

func (c *rowCopy) apply(m walchan.Message) {
	if m.Kind == walchan.Truncate {
		tables, _, _ := m.Truncated()
		for _, r := range tables {
			if r.Name == c.table {
				clear(c.rows)
			}
		}
	}
	if m.Relation == nil || m.Relation.Name != c.table {
		return
	}
	row, old := m.New(), m.Old()
	was := row
	if old.Len() > 0 {
		was = old
	}
	before := c.rows[was.Text(0)]
	delete(c.rows, was.Text(0))
	if row.Len() == 0 {
		return
	}
	if m.Kind == walchan.Read {
		c.reads[row.Text(0)]++
	}
	values := make([]string, row.Len())
	for i := range values {
		switch {
		case row.State(i) != walchan.Unchanged:
			values[i] = row.Text(i)
		case before != nil:
			values[i] = before[i]
		default:
			values[i] = "?"
		}
	}
	c.rows[row.Text(0)] = values
}

// differs compares it with the table.
func (c *rowCopy) differs(t *testing.T, db pgtest.DB) (why string) {
	t.Helper()
	want := map[string]string{}
	for line := range strings.Lines(db.Query(t, "SELECT coalesce(string_agg(id || ' ' || n || ' ' || md5(big) || E'\\n', ''), '') FROM "+c.table)) {
		id, _, _ := strings.Cut(line, " ")
		want[id] = strings.TrimSpace(line)
	}
	wrong := 0
	for id, w := range want {
		got, ok := c.rows[id]
		if line := strings.Join(got, " "); !ok || line != w {
			wrong++
			why = fmt.Sprintf("row %s is %.60q, want %q", id, line, w)
		}
	}
	if len(c.rows) != len(want) || wrong > 0 {
		return fmt.Sprintf("%d rows, of which %d are wrong, want %d; %s", len(c.rows), wrong, len(want), why)
	}
	return ""
}

const bigTable = "CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, big text NOT NULL)"

// A table that is added to a running stream is read while it is changed in every way, its large values left alone, its keys moved:
// what the messages make of it equals the table. Commits wait for the stream, as for a synchronous standby: so they are seen late.
func TestReadRowsAmongChanges(t *testing.T) {
	for _, synchronous := range []bool{false, true} {
		t.Run(fmt.Sprintf("synchronous %v", synchronous), func(t *testing.T) {
			var opts []pgtest.Option
			if synchronous {
				opts = append(opts, pgtest.WithSetting("synchronous_standby_names", "walchan"))
			}
			db := ownServer(t, opts...)
			pgtest.Exec(t, db.DSN("options='-c synchronous_commit=local'"), bigTable, "ALTER TABLE big ALTER big SET STORAGE EXTERNAL",
				"INSERT INTO big SELECT g, 0, repeat(md5(g::text), 80) FROM generate_series(2, 12000, 2) g", "CREATE TABLE marker (id int PRIMARY KEY)")
			s := open(t, t.Context(), db)
			stop := startChanges(t, db)
			pgtest.Exec(t, db.DSN("options='-c synchronous_commit=local'"), "ALTER PUBLICATION p ADD TABLE big, marker")

			// The consumer needs the digest of large values only.
			c, done := newRowCopy("big"), make(chan error, 1)
			began, ended := 0, 0
			follow := make(chan struct{})
			go func() {
				defer close(follow)
				for m := range s.C() {
					c.apply(m)
					switch m.Kind {
					case walchan.SnapshotBegin:
						began++
					case walchan.SnapshotEnd:
						ended++
					}
					s.Ack(m)
					if m.Relation != nil && m.Relation.Name == "marker" {
						return
					}
				}
			}()
			go func() { done <- s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "big"}) }()
			for range 5 { // of the stream, and of ReadRows
				select {
				case <-time.After(100 * time.Millisecond):
				case <-follow:
				}
				pgtest.Exec(t, db.DSN(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walchan' AND random() < 0.6")
			}
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(2 * patience):
				t.Fatalf("ReadRows does not return: %+v", s.Stats())
			}
			stop()
			db.Exec(t, "INSERT INTO marker VALUES (1)")
			<-follow
			for _, row := range c.rows {
				row[2] = md5Of(row[2])
			}
			if why := c.differs(t, db); why != "" {
				t.Error(why)
			}
			if began != 1 || ended != 1 {
				t.Errorf("it began %d and ended %d times", began, ended)
			}
			again := 0
			for _, n := range c.reads {
				again += n - 1
			}
			p := s.Stats().Snapshot
			if len(p) != 1 || p[0].Table != "public.big" || p[0].Rows == 0 || !p[0].Done {
				t.Errorf("the progress is %+v", p)
			}
			t.Logf("%d rows were read, %d of them again; %d reconnects", len(c.reads), again, s.Stats().Reconnects)
		})
	}
}

// startChanges has three clients change the table big.
func startChanges(t *testing.T, db pgtest.DB) (stop func()) {
	t.Helper()
	var stopped atomic.Bool
	var clients sync.WaitGroup
	for n := range 3 {
		conn := pgtest.Connect(t, db.DSN())
		r := rand.New(rand.NewPCG(uint64(n), 2))
		clients.Go(func() {
			for !stopped.Load() {
				id, other := r.IntN(6000)*2, r.IntN(6000)*2+1
				run(t, conn, "BEGIN", []string{
					fmt.Sprintf("UPDATE big SET n = n + 1 WHERE id BETWEEN %d AND %d", id, id+40),
					fmt.Sprintf("UPDATE big SET big = repeat(md5(random()::text), 80) WHERE id = %d", id),
					fmt.Sprintf("DELETE FROM big WHERE id = %d", id),
					fmt.Sprintf("INSERT INTO big VALUES (%d, 7, repeat(md5(random()::text), 80)) ON CONFLICT (id) DO UPDATE SET n = 8", other),
					fmt.Sprintf("UPDATE big SET id = %d, n = n + 1 WHERE id = %d AND NOT EXISTS (SELECT FROM big WHERE id = %d)", other*10_000+n, id, other*10_000+n),
					fmt.Sprintf("UPDATE big SET id = -%d WHERE id = %d AND NOT EXISTS (SELECT FROM big WHERE id = -%d)", 3*id+n, id, 3*id+n),
				}[r.IntN(6)], []string{"COMMIT", "COMMIT", "COMMIT", "ROLLBACK"}[r.IntN(4)])
			}
		})
	}
	return func() {
		stopped.Store(true)
		clients.Wait()
	}
}

// Who ends in the middle goes on behind the last row it has stored.
func TestReadRowsGoesOnBehindAKey(t *testing.T) {
	db := newSource(t)
	db.Exec(t, `CREATE TABLE keyed (a text, b int, v text, PRIMARY KEY (b, a))`, "ALTER PUBLICATION p ADD TABLE keyed",
		`INSERT INTO keyed SELECT 'it''s \ ' || g % 10, g / 10, 'v' FROM generate_series(0, 99) g`)
	s := subscribe(t, db)
	take(t, s, 100)
	read := func(after ...string) (keys []string) {
		done := make(chan error, 1)
		go func() {
			done <- s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "keyed", Where: "b < 9"}, after...)
		}()
		for {
			m := next(t, s)
			if m.Kind == walchan.SnapshotEnd {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				return keys
			}
			if m.Kind == walchan.Read {
				keys = append(keys, m.New().Text(1)+m.New().Text(0))
			}
		}
	}
	all := read()
	if len(all) != 90 {
		t.Fatalf("%d rows, want 90", len(all))
	}
	if got := read("3", `it's \ 7`); len(got) != 52 || got[0] != all[38] {
		t.Errorf("behind the 38th row are %d, from %s on, want %s", len(got), got[0], all[38])
	}
}

func TestReadRowsRefuses(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE nokey (id int)", "CREATE TABLE nothing (id int PRIMARY KEY)", "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
		"CREATE TABLE secret (id int PRIMARY KEY)", "ALTER PUBLICATION p ADD TABLE nokey, nothing")
	s := subscribe(t, db)
	for name, want := range map[string]error{
		"nokey": walchan.ErrTableKey, "nothing": walchan.ErrTableKey, "secret": walchan.ErrTableMissing, "gone": walchan.ErrTableMissing,
		"public.*": walchan.ErrOptions, "a.b.c": walchan.ErrOptions,
	} {
		check(t, s.ReadRows(t.Context(), walchan.SnapshotTable{Name: name}), want, name)
	}
	check(t, s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "t"}, "1", "2"), walchan.ErrOptions)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.ReadRows(ctx, walchan.SnapshotTable{Name: "t"}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	mustClose(t, s)
	if err := s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "t"}); !errors.Is(err, walchan.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Nothing is read before the transactions have ended that may have changed rows while the table was not published.
func TestReadRowsWaitsForRunningTransactions(t *testing.T) {
	db := newSource(t)
	s := subscribe(t, db)
	conn := pgtest.Connect(t, db.DSN())
	run(t, conn, "BEGIN", "INSERT INTO t VALUES (5)")
	done := make(chan error, 1)
	go func() { done <- s.ReadRows(t.Context(), walchan.SnapshotTable{Name: "t"}) }()
	db.Wait(t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_current_snapshot%' AND application_name = 'walchan' AND datname = '"+db.Name+"'")
	if n := len(s.C()); n > 0 {
		t.Errorf("%d messages before the transaction has ended", n)
	}
	run(t, conn, "COMMIT")
	kinds := map[walchan.Kind]int{}
	for kinds[walchan.SnapshotEnd] == 0 {
		m := next(t, s)
		kinds[m.Kind]++
	}
	if kinds[walchan.Insert] != 1 || kinds[walchan.Read] != 1 {
		t.Errorf("what came is %v, want an insert and the row", kinds)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func md5Of(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }
