package walchan_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A disk that is full ends the stream, and what is confirmed is what was acknowledged.
func TestFullDiskUnderTheSpool(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a small disk cannot be made: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t")
	s, err := walchan.Subscribe(t.Context(), db.DSN(smallWorkMem), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"),
		walchan.WithStreaming(), walchan.WithSpool(1<<20, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := longTransaction(t, db)
	w.exec(insertLong(1, 1000))
	db.Exec(t, insertLong(-2, 2)) // in commit order before it
	first, second := receiveOne(t, s), receiveOne(t, s)
	s.Ack(first)
	w.exec(insertLong(1001, 30_000))
	w.exec("COMMIT")
	if m, ok := <-s.C(); ok {
		t.Errorf("there came %v", m)
	}
	if err := s.Err(); !errors.Is(err, walchan.ErrSpool) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error is %v", err)
	}
	s.Ack(second)
	s.Close()
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d temporary files are left", n)
	}
	// The next one, with more room, gets all that was not acknowledged in time.
	db.Wait(t, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	s, err = walchan.Subscribe(t.Context(), db.DSN(smallWorkMem), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithStreaming())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for id := -2; id <= 31_000; id++ {
		if id == 0 {
			continue
		}
		if got := receiveOne(t, s).New().Text(0); got != fmt.Sprint(id) {
			t.Fatalf("row %s, want %d", got, id)
		}
	}
}
