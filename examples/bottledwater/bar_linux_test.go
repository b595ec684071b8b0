package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
)

// On a terminal the snapshot has a bar, which goes when the snapshot is over.
func TestTerminal(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g")
	p := command(t, "-dsn", db.DSN(), "-slot", db.Name, "-initial-snapshot")
	ours, theirs := pgtest.Terminal(t)
	p.Stderr, p.Stdout = theirs, nil
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	streams(t, db)
	p.Process.Signal(os.Interrupt)
	b, _ := io.ReadAll(ours) // ends in EIO, when nobody has the other side
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	_, shown, _ := strings.Cut(string(b), "\r\x1b[Ksnapshot [")
	if !strings.Contains(shown, " rows  public.t") || !strings.Contains(shown, "\r\x1b[K") {
		t.Errorf("the terminal has %q", b)
	}
}
