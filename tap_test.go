package walchan_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// A tap listens in on a stream's connections. It checks of every status what must hold of all of them: no position above
// what was received, none that goes back on its connection. And it can cut connections, at any byte, and hold back the next ones.
type tap struct {
	t    *testing.T
	raw  bool               // another plugin than pgoutput, of which the position of a message is all that is known
	cut  func(dial int) int // after how many bytes of the stream a connection breaks; nil, or 0: never
	arm  func()             // called before the deadline of a read is set
	hold <-chan struct{}    // where there is one, all connections but the first wait for it

	attempts  int          // at a connection; the owner's
	collected atomic.Int32 // streaming connections that nobody holds any more

	mu        sync.Mutex
	news      chan struct{} // closed when anything below has changed
	dials     int           // streams begun
	received  walchan.LSN
	keepalive walchan.LSN // the last one's
	bytes     int
	statuses  []status
}

// status is a Standby status update.
type status struct {
	at           time.Time
	write, flush walchan.LSN
	dial         int32 // the stream it was sent on
}

func (p *tap) option() walchan.Option {
	return walchan.WithConnect(func(ctx context.Context, cfg *pgconn.Config) error {
		if p.attempts++; p.attempts > 1 && p.hold != nil {
			select {
			case <-p.hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			tapped := &tappedConn{Conn: c, tap: p}
			tapped.left.Store(-1)
			return tapped, nil
		}
		return nil
	})
}

// flush is the flush position of the last status.
func (p *tap) flush() walchan.LSN {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.statuses) == 0 {
		return 0
	}
	return p.statuses[len(p.statuses)-1].flush
}

// wait waits until yes, which is asked again whenever something has passed the tap. It is called with mu held.
func (p *tap) wait(what string, yes func() bool) {
	p.t.Helper()
	for deadline := time.After(patience); ; {
		p.mu.Lock()
		ok := yes()
		if p.news == nil {
			p.news = make(chan struct{})
		}
		news := p.news
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-deadline:
			p.t.Fatalf("waiting until %s: received %s, last keepalive %s, flush %s", what, p.received, p.keepalive, p.flush())
		}
	}
}

// waitFlush waits for a status with a flush position of at least lsn, and returns when it was sent.
func (p *tap) waitFlush(lsn walchan.LSN) (at time.Time) {
	p.t.Helper()
	p.wait("the server is told "+lsn.String(), func() bool {
		n := len(p.statuses)
		for n > 0 && p.statuses[n-1].flush >= lsn {
			n--
			at = p.statuses[n].at
		}
		return !at.IsZero()
	})
	return at
}

// waitKeepalive waits for a keepalive that is beyond lsn.
func (p *tap) waitKeepalive(lsn walchan.LSN) {
	p.t.Helper()
	p.wait("there is a keepalive beyond "+lsn.String(), func() bool { return p.keepalive >= lsn })
}

// update is called with what has passed.
func (p *tap) update(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	if p.news != nil {
		close(p.news)
		p.news = nil
	}
}

// tappedConn is a connection with a tap on it.
type tappedConn struct {
	net.Conn
	tap     *tap
	in, out frames

	started bool // the start-up message, which alone has no type, was sent

	// Where a write takes long pgx reads meanwhile, in a goroutine of its own.
	physical atomic.Bool
	dial     atomic.Int32 // number of the stream; 0: none has begun
	left     atomic.Int64 // bytes of the stream until the connection breaks; -1: it does not
}

// Read implements net.Conn.
func (c *tappedConn) Read(p []byte) (int, error) {
	left := c.left.Load()
	if left == 0 {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	if left > 0 {
		p = p[:min(int64(len(p)), left)]
	}
	n, err := c.Conn.Read(p)
	if left > 0 {
		c.left.Store(left - int64(n))
	}
	c.in.split(p[:n], c.fromServer)
	return n, err
}

// SetReadDeadline implements net.Conn.
func (c *tappedConn) SetReadDeadline(d time.Time) error {
	if c.tap.arm != nil && c.dial.Load() > 0 && d.After(time.Now()) { // not to interrupt a read
		c.tap.arm()
	}
	return c.Conn.SetReadDeadline(d)
}

// Write implements net.Conn.
func (c *tappedConn) Write(p []byte) (int, error) {
	if c.started {
		c.out.split(p, c.fromClient)
	}
	c.started = true
	return c.Conn.Write(p)
}

// fromServer takes in a message from the server (PostgreSQL documentation, "Streaming Replication Protocol").
func (c *tappedConn) fromServer(kind byte, body []byte) {
	switch {
	case kind == 'd' && body[0] == 'k':
		end := lsnAt(body, 1)
		c.tap.update(func() {
			c.tap.keepalive, c.tap.received = end, max(c.tap.received, end)
			c.tap.bytes += len(body)
		})
	case kind == 'd' && body[0] == 'w':
		end := endOf(body[25:])
		switch {
		case c.physical.Load():
			end = lsnAt(body, 1) + walchan.LSN(len(body)-25)
		case c.tap.raw:
			end = lsnAt(body, 1)
		}
		c.tap.update(func() {
			c.tap.received = max(c.tap.received, end)
			c.tap.bytes += len(body)
		})
	}
}

// endOf returns up to where everything has come with a message of pgoutput: behind a commit, what is prepared and its outcome,
// and behind a message that belongs to no transaction. A Begin names its commit, and transactions come in the order of those.
func endOf(b []byte) walchan.LSN {
	switch {
	case len(b) == 21 && b[0] == 'B':
		return lsnAt(b, 1)
	case len(b) == 26 && b[0] == 'C', len(b) > 26 && strings.IndexByte("PKrp", b[0]) >= 0:
		return lsnAt(b, 10)
	case len(b) == 30 && b[0] == 'c':
		return lsnAt(b, 14)
	case len(b) > 10 && b[0] == 'M' && b[1]&1 == 0:
		return lsnAt(b, 2)
	}
	return 0
}

func lsnAt(b []byte, i int) walchan.LSN { return walchan.LSN(binary.BigEndian.Uint64(b[i:])) }

func (c *tappedConn) fromClient(kind byte, body []byte) {
	switch {
	case kind == 'd' && body[0] == 'r':
		c.check(status{time.Now(), lsnAt(body, 1), lsnAt(body, 9), c.dial.Load()}, lsnAt(body, 17))
	case kind == 'Q' && strings.HasPrefix(string(body), "START_REPLICATION"):
		_, from, logical := strings.Cut(string(body), " LOGICAL ")
		if c.physical.Store(!logical); !logical {
			_, from, _ = strings.Cut(string(body), "PHYSICAL ")
		}
		from, _, _ = strings.Cut(from, " ")
		c.begin(parseLSN(c.tap.t, strings.Trim(from, "\x00")))
	}
}

func (c *tappedConn) begin(from walchan.LSN) {
	p := c.tap
	runtime.AddCleanup(c, func(p *tap) { p.collected.Add(1) }, p)
	p.update(func() {
		p.dials++
		c.dial.Store(int32(p.dials))
		if p.dials == 1 {
			p.received = from
		}
		if p.cut != nil {
			if left := p.cut(p.dials); left != 0 {
				c.left.Store(int64(left))
			}
		}
		if from > p.received {
			p.t.Errorf("stream %d begins at %s, beyond %s, which was received", p.dials, from, p.received)
		}
	})
}

func (c *tappedConn) check(s status, apply walchan.LSN) {
	p := c.tap
	p.update(func() {
		var last status
		if n := len(p.statuses); n > 0 {
			last = p.statuses[n-1]
		}
		switch {
		case s.flush == 0 || apply != s.flush || s.write < s.flush:
			p.t.Errorf("status: write %s, flush %s, apply %s", s.write, s.flush, apply)
		case s.flush > p.received || s.write > p.received:
			p.t.Errorf("status: flush %s, write %s, beyond %s, which was received", s.flush, s.write, p.received)
		case s.flush < last.flush && s.dial == last.dial: // a new connection begins with what the slot has
			p.t.Errorf("status: flush %s, behind %s, which was told before", s.flush, last.flush)
		}
		p.statuses = append(p.statuses, s)
	})
}

// frames splits a direction of a connection into messages.
type frames struct{ partial []byte }

// split hands over the messages that b ends, and keeps the rest.
func (f *frames) split(b []byte, each func(kind byte, body []byte)) {
	if len(f.partial) > 0 {
		f.partial = append(f.partial, b...)
		b = f.partial
	}
	for len(b) >= 5 {
		size := int(binary.BigEndian.Uint32(b[1:])) + 1
		if len(b) < size {
			break
		}
		if size > 5 {
			each(b[0], b[5:size])
		}
		b = b[size:]
	}
	f.partial = append([]byte(nil), b...)
}
