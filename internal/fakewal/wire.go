package fakewal

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wire is the server's end of a connection, with the faults of the network between.
type wire struct {
	net.Conn
	stalled atomic.Bool
	rate    atomic.Int64 // bytes per second; 0: no limit
	closed  chan struct{}
	once    sync.Once
}

func newWire(nc net.Conn) *wire { return &wire{Conn: nc, closed: make(chan struct{})} }

// Read hears nothing once the wire is stalled, not even that the peer has closed.
func (w *wire) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		if !w.stalled.Load() {
			return n, err
		}
		if err != nil {
			<-w.closed
			return 0, net.ErrClosed
		}
	}
}

func (w *wire) Write(b []byte) (int, error) {
	if rate := w.rate.Load(); rate > 0 {
		return w.trickle(b, int(rate))
	}
	if w.stalled.Load() {
		return len(b), nil
	}
	return w.Conn.Write(b)
}

// trickle writes in steps of 10 ms, or of one byte if that is slower.
func (w *wire) trickle(b []byte, rate int) (int, error) {
	for at := 0; at < len(b); {
		n := min(max(1, rate/100), len(b)-at)
		select {
		case <-time.After(time.Duration(n) * time.Second / time.Duration(rate)):
		case <-w.closed:
			return at, net.ErrClosed
		}
		if !w.stalled.Load() {
			if m, err := w.Conn.Write(b[at : at+n]); err != nil {
				return at + m, err
			}
		}
		at += n
	}
	return len(b), nil
}

func (w *wire) Close() error {
	err := net.ErrClosed
	w.once.Do(func() { close(w.closed); err = w.Conn.Close() })
	return err
}

// reset closes the connection so that the client reads "connection reset by peer".
func (w *wire) reset() {
	switch c := w.Conn.(type) {
	case *pipeConn:
		c.Reset()
	case *net.TCPConn:
		c.SetLinger(0)
	}
	w.Close()
}
