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
		ours, theirs := terminal(t)
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
