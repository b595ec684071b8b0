package fakewal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipeCarriesBytes(t *testing.T) {
	a, b := Pipe(1000)
	want := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(want)
	var writing sync.WaitGroup
	writing.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for rest := want; len(rest) > 0; {
			n := min(1+rnd.IntN(3000), len(rest))
			if m, err := a.Write(rest[:n]); m != n || err != nil {
				t.Error(m, err)
			}
			rest = rest[n:]
		}
		a.Close()
	})
	var got bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, b, make([]byte, 777)); err != nil {
		t.Error(err)
	}
	writing.Wait()
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("bytes differ")
	}
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(4)
		read := func() (time.Duration, error) {
			began := time.Now()
			_, err := a.Read(make([]byte, 1))
			return time.Since(began), err
		}
		passes := func(what string, want time.Duration) {
			t.Helper()
			d, err := read()
			var ne net.Error
			if d != want || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%s: %v after %v", what, err, d)
			}
		}
		a.SetReadDeadline(time.Now().Add(time.Hour))
		passes("future", time.Hour)
		passes("past", 0)

		a.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Minute, func() { a.SetReadDeadline(time.Now()) })
		passes("moved to now", time.Minute)

		a.SetReadDeadline(time.Now().Add(time.Minute))
		time.AfterFunc(time.Second, func() { a.SetReadDeadline(time.Now().Add(time.Hour)) })
		passes("moved away", time.Hour+time.Second)

		a.SetReadDeadline(time.Time{})
		time.AfterFunc(2*time.Hour, func() { b.Write([]byte("x")) })
		if d, err := read(); d != 2*time.Hour || err != nil {
			t.Errorf("none: %v after %v", err, d)
		}

		a.SetWriteDeadline(time.Now().Add(time.Minute))
		if n, err := a.Write([]byte("123456")); n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("full: %d, %v", n, err)
		}
		a.SetDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { b.Read(make([]byte, 2)) })
		if n, err := a.Write([]byte("78")); n != 2 || err != nil {
			t.Errorf("room again: %d, %v", n, err)
		}
	})
}

func TestPipeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(100)
		a.Write([]byte("rest"))
		time.AfterFunc(time.Second, func() { a.Close() })
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("own read: %v", err)
		}
		if got, err := io.ReadAll(b); string(got) != "rest" || err != nil {
			t.Errorf("peer reads %q, %v", got, err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("peer writes: %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("own write: %v", err)
		}
		b.Close()
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("own read after the peer's end: %v", err)
		}

		a, b = Pipe(100)
		a.Write([]byte("rest"))
		a.(*pipeConn).Reset()
		a.Close()
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset: %v", err)
		}
	})
}
