package session

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestGather(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere Gather changes nothing")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := &Conn{net: client, in: &reader{src: client}}
	fill := func(d time.Duration) (int, error) {
		t.Helper()
		before := c.in.w - c.in.r
		if err := c.Arm(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
		err := c.Fill()
		return c.in.w - c.in.r - before, err
	}

	c.Gather(true)
	time.AfterFunc(50*time.Millisecond, func() { server.Write(make([]byte, 10)) })
	if n, err := fill(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a little has come: %d bytes, %v, want the deadline", n, err)
	}
	if n, err := fill(time.Minute); n != 10 || err != nil {
		t.Errorf("behind the deadline: %d bytes, %v, want what had come", n, err)
	}
	time.AfterFunc(50*time.Millisecond, func() { server.Write(make([]byte, heap)) })
	if n, err := fill(time.Minute); n == 0 || err != nil {
		t.Errorf("much has come: %d bytes, %v", n, err)
	}
	c.Gather(false)
	for c.in.w-c.in.r < 10+heap {
		if _, err := fill(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	time.AfterFunc(50*time.Millisecond, func() { server.Write(make([]byte, 10)) })
	if n, err := fill(time.Minute); n != 10 || err != nil {
		t.Errorf("no longer gathering: %d bytes, %v", n, err)
	}
}
