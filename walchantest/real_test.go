package walchantest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/walchantest"
)

// The messages are those of a real server that is told the same.
func TestMessagesAreThoseOfARealServer(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE a (k int, v text, l int, w text, PRIMARY KEY (l, k)); ALTER TABLE a ALTER w SET STORAGE EXTERNAL;
		CREATE TABLE f (k int PRIMARY KEY, v text, w text); ALTER TABLE f ALTER w SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
		CREATE PUBLICATION p FOR ALL TABLES`)
	long := strings.Repeat("x", 5000)
	a := walchantest.NewTable("a", "k int primary key", "v text", "l int primary key", "w text")
	f := walchantest.NewTable("f", "k int primary key", "v text", "w text").ReplicaIdentityFull()
	steps := []struct {
		sql    string
		change walchantest.Change
	}{
		{"INSERT INTO a VALUES (1, 'one', 10, '" + long + "')", a.Insert(1, "one", 10, long)},
		{"UPDATE a SET v = NULL", a.Update(1, nil, 10, walchantest.Unchanged).From(1, "one", 10, long)},
		{"UPDATE a SET k = 2", a.Update(2, nil, 10, walchantest.Unchanged).From(1, 10)},
		{"UPDATE a SET w = ''", a.Update(2, nil, 10, "")},
		{"DELETE FROM a", a.Delete(2, 10)},
		{"INSERT INTO a VALUES (3, '', 30)", a.Insert(3, "", 30, nil)},
		{"DELETE FROM a", a.Delete(3, "", 30, nil)},
		{"INSERT INTO f VALUES (1, 'one', '" + long + "')", f.Insert(1, "one", long)},
		{"UPDATE f SET v = NULL", f.Update(1, nil, walchantest.Unchanged).From(1, "one", long)},
		{"UPDATE f SET k = 2, w = NULL", f.Update(2, nil, nil).From(1, nil, long)},
		{"DELETE FROM f", f.Delete(2, nil, nil)},
		{"TRUNCATE a, f RESTART IDENTITY CASCADE", walchantest.Truncate(a, f).RestartIdentity().Cascade()},
		{"SELECT pg_logical_emit_message(true, 'p', 'in')", walchantest.LogicalMessage(true, "p", "in")},
		{"SELECT pg_logical_emit_message(false, 'p', 'out')", walchantest.LogicalMessage(false, "p", "out")},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := walchan.Subscribe(ctx, db.DSN(), walchan.WithPublication("p"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var entries []walchantest.Entry
	for _, s := range steps {
		db.Exec(t, s.sql)
		entries = append(entries, s.change)
	}
	made := walchantest.Messages(entries...)
	if len(made) != len(steps) {
		t.Fatalf("%d messages for %d steps", len(made), len(steps))
	}
	for i, s := range steps {
		m, ok := <-stream.C()
		if !ok {
			t.Fatal(stream.Err())
		}
		if got, want := describe(made[i]), describe(m); got != want {
			t.Errorf("%.40s: made is\n%s, real is\n%s", s.sql, got, want)
		}
	}
}

// describe says all of a message but its position.
func describe(m walchan.Message) string {
	var b strings.Builder
	tables, cascade, restart := m.Truncated()
	fmt.Fprintln(&b, m.Kind, m.Ordinal, m.Tx != nil, m.Prefix(), m.Payload(), len(tables), cascade, restart)
	if m.Relation != nil {
		rel := *m.Relation
		rel.OID = 0
		fmt.Fprintln(&b, rel.String(), rel.ReplicaIdentity, rel.Columns)
	}
	for _, row := range []walchan.Row{m.Old(), m.New()} {
		fmt.Fprint(&b, row.Identity(), ": ")
		for i := range row.Len() {
			fmt.Fprintf(&b, "%v %.10q, ", row.State(i), row.Text(i))
		}
		fmt.Fprintln(&b)
	}
	return strings.Join(slices.Collect(strings.Lines(b.String())), "  ")
}
