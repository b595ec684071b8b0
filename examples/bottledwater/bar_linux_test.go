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
	rows, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	p.Stderr, p.Stdout = theirs, stdout
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	stdout.Close()
	// Until the rest is taken the snapshot does not end.
	if _, err := io.CopyN(io.Discard, rows, 4<<20); err != nil {
		t.Fatal(err)
	}
	var b []byte
	for piece := make([]byte, 4096); !strings.Contains(string(b), " rows  public.t"); {
		n, err := ours.Read(piece)
		if b = append(b, piece[:n]...); err != nil {
			t.Fatalf("%v; the terminal has %q", err, b)
		}
	}
	go io.Copy(io.Discard, rows)
	streams(t, db)
	p.Process.Signal(os.Interrupt)
	rest, _ := io.ReadAll(ours) // ends in EIO, when nobody has the other side
	b = append(b, rest...)
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	_, shown, _ := strings.Cut(string(b), "\r\x1b[Ksnapshot [")
	if !strings.Contains(shown, " rows  public.t") || !strings.Contains(shown, "\r\x1b[K") {
		t.Errorf("the terminal has %q", b)
	}
}
