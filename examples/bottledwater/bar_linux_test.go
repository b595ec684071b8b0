package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/walchan/walchan/internal/pgtest"
)

// terminal opens a pseudoterminal, see pts(4).
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudoterminals: ", err)
	}
	t.Cleanup(func() { ours.Close() })
	conn, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number, unlocked int32
	err = conn.Control(func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPTN, uintptr(unsafe.Pointer(&number)))
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlocked)))
	})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// On a terminal the snapshot has a bar, which goes when the snapshot is over.
func TestTerminal(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g")
	p := command(t, "-dsn", db.DSN(), "-slot", db.Name, "-initial-snapshot")
	ours, theirs := terminal(t)
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
