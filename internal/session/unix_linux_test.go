package session

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// unixPair is a connection as the stream has it, and the server's end.
func unixPair(t *testing.T) (net.Conn, *net.UnixConn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client, err := unpolled(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server.(*net.UnixConn)
}

// All that is written arrives, in both directions, with deadlines that end reads in between, and pauses on either side.
func TestUnixConn(t *testing.T) {
	client, server := unixPair(t)
	want := make([]byte, 8<<20)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	go func() {
		for b := want; len(b) > 0; {
			n := min(1+rand.IntN(20_000), len(b))
			server.Write(b[:n])
			if b = b[n:]; rand.IntN(10) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	var got []byte
	timeouts := 0
	for b := make([]byte, 50_000); len(got) < len(want); {
		client.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(1000)) * time.Microsecond))
		n, err := client.Read(b)
		got = append(got, b[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			timeouts++
		} else if err != nil {
			t.Fatal(err)
		}
		if rand.IntN(10) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if !bytes.Equal(got, want) || timeouts == 0 {
		t.Errorf("other bytes came, or no read ended by its deadline (%d)", timeouts)
	}

	back := make(chan []byte)
	go func() {
		b := make([]byte, len(want))
		io.ReadFull(server, b)
		back <- b
	}()
	if n, err := client.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	if !bytes.Equal(<-back, want) {
		t.Error("other bytes arrived")
	}
	server.Close()
	client.SetReadDeadline(time.Time{})
	if _, err := client.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A read that waits is ended by another's deadline, by the data that comes, by the end, and by Close.
func TestUnixConnWakesItsReader(t *testing.T) {
	for what, c := range map[string]struct {
		do   func(client net.Conn, server *net.UnixConn)
		want error
	}{
		"a deadline": {func(c net.Conn, _ *net.UnixConn) { c.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"data":       {func(_ net.Conn, s *net.UnixConn) { s.Write([]byte("x")) }, nil},
		"the end":    {func(_ net.Conn, s *net.UnixConn) { s.CloseWrite() }, io.EOF},
		"Close":      {func(c net.Conn, _ *net.UnixConn) { c.Close() }, net.ErrClosed},
	} {
		client, server := unixPair(t)
		for range 3 { // also a second time, behind a read that waited in vain
			client.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		client.SetReadDeadline(time.Time{})
		ended := make(chan error)
		go func() {
			_, err := client.Read(make([]byte, 10))
			ended <- err
		}()
		time.Sleep(20 * time.Millisecond) // it may wait by then, or not: it must end
		c.do(client, server)
		select {
		case err := <-ended:
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s wakes nobody", what)
		}
	}
}

func TestUnixConnWriteEnds(t *testing.T) {
	client, server := unixPair(t)
	client.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := client.Write(make([]byte, 64<<20))
	if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody reads: %d bytes, %v", n, err)
	}
	client.SetWriteDeadline(time.Time{})
	server.Close()
	if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("nobody is there: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if _, err := client.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	client.Close() // twice
}
