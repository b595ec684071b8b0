package encode_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// appender is what the encoders have in common.
type appender interface {
	Append(b []byte, m walchan.Message) ([]byte, error)
}

// source is a database with a publication of all tables and a slot, of the database's name, which begins behind ddl.
func source(t *testing.T, ddl ...string) pgtest.DB {
	t.Helper()
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, append(ddl, "CREATE PUBLICATION p FOR ALL TABLES",
		"SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")...)
	return db
}

// changes returns what has happened since the slot was made, with the marks of the transactions.
func changes(t *testing.T, db pgtest.DB, opts ...walchan.Option) (all []walchan.Message) {
	t.Helper()
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'end', '')")
	return receive(t, db, func(m walchan.Message) bool { return m.Prefix() == "end" }, opts...)
}

// receive returns what comes until it is the end.
func receive(t *testing.T, db pgtest.DB, isEnd func(walchan.Message) bool, opts ...walchan.Option) (all []walchan.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := walchan.Subscribe(ctx, db.DSN("timezone=UTC"), append(opts, walchan.WithSlot(db.Name), walchan.WithPublication("p"),
		walchan.WithTransactions(), walchan.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil))))...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for m := range s.C() {
		s.Ack(m)
		if isEnd(m) {
			return all
		}
		all = append(all, m)
	}
	t.Fatalf("the end did not come: %v", s.Err())
	return nil
}

// lines encodes messages. Each goes behind something, which must stay.
func lines(t *testing.T, e appender, ms []walchan.Message) (all []string) {
	t.Helper()
	for _, m := range ms {
		b, err := e.Append([]byte("before"), m)
		if err != nil {
			t.Fatal(err)
		}
		line, ok := strings.CutPrefix(string(b), "before")
		if !ok || strings.HasSuffix(line, "\n") {
			t.Errorf("%q", b)
		}
		if line != "" {
			all = append(all, strings.Split(line, "\n")...)
		}
	}
	return all
}

// compare compares lines of output, up to the first one that differs.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if g, w := got[i], want[i]; g != w {
			at := 0
			for at < min(len(g), len(w)) && g[at] == w[at] {
				at++
			}
			at = max(0, at-100)
			t.Errorf("line %d, from byte %d on\n got %.300s\nwant %.300s", i+1, at, g[at:], w[at:])
			return
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d lines, not %d", len(got), len(want))
	}
}

// query returns the first column of all rows.
func query(t *testing.T, db pgtest.DB, sql string) []string {
	t.Helper()
	conn := pgtest.Connect(t, db.DSN("timezone=UTC"))
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}
