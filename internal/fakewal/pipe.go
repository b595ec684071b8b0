package fakewal

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Pipe is a connection in memory that behaves like TCP where net.Pipe does not: each direction holds up to size bytes (as
// socket buffers do), so that a write returns before it is read, and what was written before Close is still read after it.
//
// Whoever waits in it waits durably in the sense of testing/synctest: in a bubble, deadlines cost no time.
func Pipe(size int) (client, server net.Conn) {
	up, down := newQueue(size), newQueue(size)
	return &pipeConn{in: down, out: up, local: "client", remote: "server"},
		&pipeConn{in: up, out: down, local: "server", remote: "client"}
}

type pipeConn struct {
	in, out       *queue
	local, remote pipeAddr
}

func (c *pipeConn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	if err != nil && err != io.EOF {
		err = &net.OpError{Op: "read", Net: "pipe", Source: c.local, Addr: c.remote, Err: err}
	}
	return n, err
}

func (c *pipeConn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	if err != nil {
		err = &net.OpError{Op: "write", Net: "pipe", Source: c.local, Addr: c.remote, Err: err}
	}
	return n, err
}

// Close ends both directions. The peer reads what was written before, then io.EOF.
func (c *pipeConn) Close() error {
	c.out.end(io.EOF, net.ErrClosed, false)
	c.in.end(net.ErrClosed, syscall.EPIPE, true)
	return nil
}

// Reset ends both directions at once, as a TCP reset does: what the peer has not read yet is lost.
func (c *pipeConn) Reset() {
	c.out.end(syscall.ECONNRESET, net.ErrClosed, true)
	c.in.end(net.ErrClosed, syscall.ECONNRESET, true)
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.in.reader.set(t)
	c.out.writer.set(t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error  { c.in.reader.set(t); return nil }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { c.out.writer.set(t); return nil }
func (c *pipeConn) LocalAddr() net.Addr                { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr               { return c.remote }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

// queue is one direction: a ring of bytes.
type queue struct {
	mu     sync.Mutex // guards everything here and in the two deadlines
	reader deadline
	writer deadline

	ring     []byte
	at, n    int   // where the oldest byte is, and how many there are
	readErr  error // what reading gives once the ring is empty
	writeErr error
}

func newQueue(size int) *queue {
	q := &queue{ring: make([]byte, max(1, size))}
	q.reader.init(&q.mu)
	q.writer.init(&q.mu)
	return q
}

func (q *queue) read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.reader.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case q.n > 0:
			n := copy(b, q.ring[q.at:min(q.at+q.n, len(q.ring))])
			if n < len(b) && n < q.n { // the rest begins at the start of the ring
				n += copy(b[n:], q.ring[:q.n-n])
			}
			q.at, q.n = (q.at+n)%len(q.ring), q.n-n
			q.writer.wake.Broadcast()
			return n, nil
		case q.readErr != nil:
			return 0, q.readErr
		}
		q.reader.wake.Wait()
	}
}

func (q *queue) write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	total := 0
	for {
		switch {
		case q.writeErr != nil:
			return total, q.writeErr
		case q.writer.passed():
			return total, os.ErrDeadlineExceeded
		case total == len(b):
			return total, nil
		case q.n == len(q.ring):
			q.writer.wake.Wait()
			continue
		}
		end := (q.at + q.n) % len(q.ring)
		room := min(len(q.ring)-q.n, len(q.ring)-end)
		n := copy(q.ring[end:end+room], b[total:])
		q.n, total = q.n+n, total+n
		q.reader.wake.Broadcast()
	}
}

// end gives the reader and the writer their errors, unless they have some already.
func (q *queue) end(read, write error, drop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.readErr == nil || drop {
		q.readErr = read
	}
	if q.writeErr == nil {
		q.writeErr = write
	}
	if drop {
		q.n = 0
	}
	q.reader.stop()
	q.writer.stop()
}

// deadline is where one side of a queue waits, and until when.
type deadline struct {
	wake  *sync.Cond
	at    time.Time // zero: for ever
	timer *time.Timer
}

func (d *deadline) init(mu *sync.Mutex) { d.wake = sync.NewCond(mu) }

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time) {
	d.wake.L.Lock()
	defer d.wake.L.Unlock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
	}
	if left := time.Until(t); !t.IsZero() && left > 0 {
		if d.timer == nil {
			d.timer = time.AfterFunc(left, d.fire)
		} else {
			d.timer.Reset(left)
		}
	}
	d.wake.Broadcast()
}

// fire takes the lock, so that it cannot come between a look at the deadline and the wait.
func (d *deadline) fire() {
	d.wake.L.Lock()
	defer d.wake.L.Unlock()
	d.wake.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.wake.Broadcast()
}
