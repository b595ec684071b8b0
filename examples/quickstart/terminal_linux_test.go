package main

import (
	"io"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
)

func TestTerminal(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)")
	for _, c := range []struct {
		env, want string
	}{
		{"NO_COLOR=", "\x1b[32minsert\x1b[0m    t          \x1b[2mid=\x1b[0m1\r\n"},
		{"NO_COLOR=1", "  insert    t          id=1\r\n"},
	} {
		p := quickstart(t, "-dsn", db.DSN(), "-table", "t", "-n", "2")
		p.Env = append(p.Env, c.env)
		ours, theirs := pgtest.Terminal(t)
		p.Stdout = theirs
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		db.Wait(t, "SELECT count(*) = 1 "+slots)
		db.Exec(t, "TRUNCATE t; INSERT INTO t VALUES (1)")
		b, _ := io.ReadAll(ours) // ends in EIO, when nobody has the other side
		p.end(t)
		db.Wait(t, "SELECT count(*) = 0 "+slots)
		if !strings.Contains(string(b), c.want) {
			t.Errorf("%s: there is no %q in %q", c.env, c.want, b)
		}
	}
}
