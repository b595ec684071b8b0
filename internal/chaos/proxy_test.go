package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// through returns the two ends of a connection through a proxy.
func through(t *testing.T) (p *proxy, client, server net.Conn) {
	t.Helper()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if p, err = newProxy(target.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	if client, err = net.Dial("tcp", p.listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = target.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	send(t, client, server, "hello") // both pumps are at work
	send(t, server, client, string(frame(4)))
	return p, client, server
}

func send(t *testing.T, from, to net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(from, s); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(s))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != s {
		t.Fatalf("received %q, %v; sent %q", got, err, s)
	}
}

// frame returns a message of n bytes behind its type.
func frame(n byte) []byte { return append([]byte{'d', 0, 0, 0, n}, make([]byte, n-4)...) }

func TestCut(t *testing.T) {
	p, client, server := through(t)
	if n := p.cut(true); n != 1 {
		t.Errorf("cut %d connections", n)
	}
	for _, c := range []net.Conn{client, server} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	}
}

func TestCutInFrame(t *testing.T) {
	for range 50 {
		p, client, server := through(t)
		p.cutInFrame()
		all := bytes.Repeat(frame(20), 3)
		server.Write(all)
		got, _ := io.ReadAll(client)
		if len(got) >= len(all) || len(got)%21 == 0 {
			t.Fatalf("received %d bytes of messages of 21", len(got))
		}
	}
}

// What a sink's server sends may look like a message that is shorter than its own length.
func TestFramesOfAnotherProtocol(t *testing.T) {
	f := &frames{}
	for _, b := range [][]byte{{'d', 0, 0}, {0, 1, 2, 3}, {4}, frame(20)} {
		if inside := f.take(b); inside < 0 || inside > len(b) || f.alien && inside != 0 {
			t.Errorf("%q: %d", b, inside)
		}
	}
	if !f.alien {
		t.Error("it was taken for PostgreSQL's")
	}
}

// A panic in the proxy is told apart from what the consumers do.
func TestProxyPanics(t *testing.T) {
	p, client, _ := through(t)
	p.run(func() { panic("by the test") })
	client.Close()
	p.close()
	if err := p.failure(); err == nil || isFinding(err) {
		t.Errorf("failure is %v", err)
	}
}

// A server out of reach takes no connection, until it is there again.
func TestRefuse(t *testing.T) {
	p, client, _ := through(t)
	ended := func(c net.Conn) {
		t.Helper()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", p.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	target, err := net.Listen("tcp", p.leadsTo()) // through has closed its own
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	p.refuse(true)
	ended(client)
	ended(dial())
	p.refuse(false)
	client = dial()
	server, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	send(t, client, server, "hello again")
}

// A half-open connection swallows everything, and tells neither side that the other is gone.
func TestHalfOpen(t *testing.T) {
	p, client, server := through(t)
	p.halfOpen()
	if _, err := client.Write([]byte("lost")); err != nil {
		t.Error(err)
	}
	p.cutInFrame() // what is cut now would be received without what was lost before it
	if _, err := server.Write(bytes.Repeat(frame(20), 3)); err != nil {
		t.Error(err)
	}
	client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client reads %d bytes, %v", n, err)
	}
	client.Close()
	server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server reads %d bytes, %v", n, err)
	}
}

func TestStall(t *testing.T) {
	p, client, server := through(t)
	const d = 100 * time.Millisecond
	p.stall(d)
	began := time.Now()
	send(t, client, server, "late")
	if took := time.Since(began); took < d/2 {
		t.Errorf("passed on after %v", took)
	}
}

func TestDelayAndRate(t *testing.T) {
	p, client, server := through(t)
	p.delay.Store(int64(50 * time.Millisecond))
	began := time.Now()
	send(t, client, server, "late")
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("delayed by %v", took)
	}
	p.heal()
	p.rate.Store(1000)
	began = time.Now()
	send(t, client, server, string(make([]byte, 200)))
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("200 bytes at 1000 a second took %v", took)
	}
}
