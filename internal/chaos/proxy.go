package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A proxy stands between one consumer and the server, and is the network that fails.
type proxy struct {
	listener net.Listener

	// For all connections, also new ones.
	until atomic.Int64 // Unix nanoseconds: nothing is passed on before
	delay atomic.Int64 // nanoseconds, of each piece that is passed on
	rate  atomic.Int64 // bytes a second in each direction; 0: no limit
	down  atomic.Bool  // connections are refused

	mu     sync.Mutex
	target string
	links  map[*link]bool // nil once closed
	broken error          // a panic of the proxy itself
	pumps  sync.WaitGroup
}

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &proxy{listener: l, target: target, links: map[*link]bool{}}
	p.run(p.accept)
	return p, nil
}

// run runs a part of the proxy. A panic of it must not look like a fault of walchan's.
func (p *proxy) run(part func()) {
	p.pumps.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.broken = fmt.Errorf("the proxy panicked: %v\n%s", r, debug.Stack())
			}
		}()
		part()
	})
}

// failure is what has become of the proxy itself.
func (p *proxy) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

// lead has new connections go to another server.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *proxy) leadsTo() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			_ = client.Close() // as a server that is down
			continue
		}
		l := &link{proxy: p, client: client.(*net.TCPConn), server: server.(*net.TCPConn), gone: make(chan struct{})}
		if !p.add(l) {
			l.cut(false)
			continue
		}
		p.run(func() { l.pump(l.server, l.client, nil) })
		p.run(func() { l.pump(l.client, l.server, &frames{}) })
	}
}

func (p *proxy) dial() (net.Conn, error) {
	if p.down.Load() {
		return nil, net.ErrClosed
	}
	return net.Dial("tcp", p.leadsTo())
}

func (p *proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links == nil || p.down.Load() {
		return false
	}
	p.links[l] = true
	return true
}

func (p *proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// each calls f for every connection there is.
func (p *proxy) each(f func(*link)) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		f(l)
	}
	return len(p.links)
}

// cut ends all connections, by RST or by FIN.
func (p *proxy) cut(reset bool) int { return p.each(func(l *link) { l.cut(reset) }) }

// cutInFrame ends each connection in the middle of the next message from the server.
func (p *proxy) cutInFrame() int { return p.each(func(l *link) { l.cutNext.Store(true) }) }

// halfOpen makes all connections drop what they are given, in both directions, and stay open. Neither side hears of the
// other's end.
func (p *proxy) halfOpen() int { return p.each(func(l *link) { l.silent.Store(true) }) }

// refuse ends all connections and takes no more of them, or takes them again: a server that is out of reach.
func (p *proxy) refuse(down bool) {
	p.down.Store(down)
	if down {
		p.cut(true)
	}
}

// stall passes nothing on for a while, and loses nothing: a network that heals.
func (p *proxy) stall(d time.Duration) { p.until.Store(time.Now().Add(d).UnixNano()) }

// heal ends what concerns all connections. Those that are half-open stay so.
func (p *proxy) heal() {
	p.until.Store(0)
	p.delay.Store(0)
	p.rate.Store(0)
}

// close ends everything and waits for it.
func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	links := p.links
	p.links = nil
	p.mu.Unlock()
	for l := range links {
		l.cut(false)
	}
	p.pumps.Wait()
}

// A link is one connection through the proxy.
type link struct {
	proxy          *proxy
	client, server *net.TCPConn
	silent         atomic.Bool
	cutNext        atomic.Bool
	once           sync.Once
	gone           chan struct{} // closed by cut
	ended          atomic.Int32  // pumps
}

func (l *link) cut(reset bool) {
	l.once.Do(func() {
		close(l.gone)
		for _, c := range []*net.TCPConn{l.client, l.server} {
			if reset {
				_ = c.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}

// pump passes on what comes from one side until it ends. fr is set on the way from the server to the client.
func (l *link) pump(to, from *net.TCPConn, fr *frames) {
	buf := make([]byte, 16<<10)
	var err error
	for err == nil {
		var n int
		if n, err = from.Read(buf); n > 0 {
			if lost := l.pass(to, buf[:n], fr); lost != nil {
				err = lost
			}
		}
	}
	if !l.silent.Load() {
		l.cut(false)
	}
	_ = from.Close() // silent: the other side does not hear of it
	if l.ended.Add(1) == 2 {
		l.cut(false)
		l.proxy.remove(l)
	}
}

var errCut = errors.New("cut")

// pass passes b on, as the faults of the moment allow.
func (l *link) pass(to *net.TCPConn, b []byte, fr *frames) error {
	p := l.proxy
	if err := l.sleep(time.Duration(p.delay.Load())); err != nil {
		return err
	}
	for len(b) > 0 {
		if err := l.sleep(time.Until(time.Unix(0, p.until.Load()))); err != nil {
			return err
		}
		piece := b
		if rate := p.rate.Load(); rate > 0 {
			const pieces = 20 // a second
			piece = b[:min(len(b), max(int(rate)/pieces, 1))]
			if err := l.sleep(time.Second / pieces); err != nil {
				return err
			}
		}
		b = b[len(piece):]
		if l.silent.Load() {
			continue // for good: behind what is lost nothing may follow
		}
		if fr != nil {
			inside := fr.take(piece)
			if inside > 0 && l.cutNext.Load() {
				_, _ = to.Write(piece[:inside])
				l.cut(false)
				return errCut
			}
		}
		if _, err := to.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.gone:
		return net.ErrClosed
	}
}

// frames follows the server's messages: a type byte and a length that counts itself ("Message Formats" in the PostgreSQL
// documentation). The connections have no TLS, whose answer would be a byte alone. The sinks' servers speak other protocols: what
// has a length that cannot be is not followed any further.
type frames struct {
	head  []byte // of the message whose length is not yet known
	left  int    // of the message, still to come
	alien bool   // it is not PostgreSQL's protocol
}

// take takes in the next bytes, and returns an offset into them that lies within a message, neither at its beginning nor at
// its end; 0 if there is none.
func (f *frames) take(b []byte) (inside int) {
	at := 0
	for at < len(b) && !f.alien {
		if f.left == 0 {
			n := min(5-len(f.head), len(b)-at)
			f.head = append(f.head, b[at:at+n]...)
			at += n
			if len(f.head) < 5 {
				return max(inside, at)
			}
			f.left, f.head = int(binary.BigEndian.Uint32(f.head[1:]))-4, nil
			if f.left < 0 {
				f.alien = true
				return 0
			}
		}
		n := min(f.left, len(b)-at)
		if n > 1 {
			inside = at + 1 + rand.IntN(n-1)
		}
		at += n
		f.left -= n
	}
	return inside
}
