// Package fakewal is a PostgreSQL server that sends what a test tells it to: a scripted walsender, for the faults that a
// real server has too rarely, and for measuring a client alone.
//
// It speaks the real protocol, over connections in memory or TCP on the loopback interface. In a testing/synctest bubble
// (make the Server inside it, and do not call Listen) minutes of time-outs pass in milliseconds, and a goroutine left over
// fails the test.
//
//	srv := fakewal.New()
//	defer srv.Close()
//	srv.Update(func(s *fakewal.State) { s.Slots["orders"] = fakewal.LogicalSlot(0x100) })
//	srv.Serve(func(c *fakewal.Conn) error {
//		if err := c.Play(tx.Frames()...); err != nil {
//			return err
//		}
//		_, err := c.AwaitFlush(tx.End)
//		return err
//	})
//	conn, err := pgconn.ConnectConfig(ctx, srv.Config())
//
// A script has the connection to itself from CopyBothResponse on. What a walsender does by itself goes on beside it: it
// reads the client's statuses, moves the slot's confirmed_flush_lsn, answers requests for a reply and CopyDone, and minds
// wal_sender_timeout. When a script returns nil the stream is idle until the client ends it.
//
// A stream of walchan itself is led here by the hook that is called before each connection: Server.Configure.
package fakewal

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

const database = "fakewal"

// DSN connects to a Server in memory when its configuration is passed through Configure.
const DSN = "host=fakewal port=5432 user=fakewal dbname=" + database + " sslmode=disable"

// Script plays one stream. What it returns ends the stream: nil leaves it idle until the client ends it, an Error or Fatal
// is sent, ErrGone is ignored, and any other error closes the connection and is reported by Server.Close.
type Script func(c *Conn) error

// Server accepts connections until it is closed. Its methods may be called from any goroutine.
type Server struct {
	mu      sync.Mutex
	state   State
	scripts []Script
	next    int // script of the next stream
	starts  []Start
	queries []string
	lastPID uint32
	conns   map[*Conn]bool
	closed  bool
	errs    []error
	ln      net.Listener

	running sync.WaitGroup
}

// New makes a server that has no slots and no publications.
func New() *Server {
	return &Server{state: defaultState(), lastPID: 1000, conns: map[*Conn]bool{}}
}

// Update changes the server's state. f must not block nor call methods of the server.
func (s *Server) Update(f func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
}

// Serve sets what the coming streams do: the first START_REPLICATION is played by the first script, and so on; the last
// plays all later ones too. Without scripts streams are idle.
func (s *Server) Serve(scripts ...Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts, s.next = scripts, 0
}

// Starts returns the START_REPLICATION commands that began a stream, oldest first.
func (s *Server) Starts() []Start {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Start(nil), s.starts...)
}

// Queries returns every query and replication command received, oldest first.
func (s *Server) Queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.queries...)
}

// Slot returns a copy of a slot, and whether it exists.
func (s *Server) Slot(name string) (Slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := s.state.Slots[name]; slot != nil {
		return *slot, true
	}
	return Slot{}, false
}

// Configure turns cfg to this server, whatever host it names: without TLS, without fallbacks, dialling Dial. It has the
// form of a hook that is called before each connection.
func (s *Server) Configure(_ context.Context, cfg *pgconn.Config) error {
	cfg.TLSConfig, cfg.Fallbacks = nil, nil
	cfg.DialFunc = s.Dial
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return nil
}

// Config connects to the server for logical replication (replication=database).
func (s *Server) Config() *pgconn.Config {
	cfg, err := pgconn.ParseConfig(DSN + " replication=database")
	if err != nil {
		panic(err) // only PG* variables of the environment can do that
	}
	s.Configure(context.Background(), cfg)
	return cfg
}

// Dial connects to the server: in memory, or by TCP once Listen was called. Network and address are ignored.
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	s.mu.Lock()
	hook, size, ln := s.state.Dial, s.state.Buffer, s.ln
	s.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err
		}
	}
	if ln != nil {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}
	client, server := Pipe(size)
	if !s.accept(server) {
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	}
	return client, nil
}

// Listen makes the server reachable by TCP, and returns the address (127.0.0.1 and a free port). It is not for bubbles.
func (s *Server) Listen() (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ln != nil {
		ln.Close()
		return "", errors.New("fakewal: closed or listening already")
	}
	s.ln = ln
	s.running.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return // closed
			}
			s.accept(nc)
		}
	})
	return ln.Addr().String(), nil
}

// accept serves a connection in a goroutine of its own, and reports false if the server is closed.
func (s *Server) accept(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		nc.Close()
		return false
	}
	s.lastPID++
	c := newConn(s, nc, s.lastPID)
	s.conns[c] = true
	s.state.backends[c.PID] = true
	s.running.Go(func() {
		err := c.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
		delete(s.state.backends, c.PID)
		if err != nil {
			s.errs = append(s.errs, err)
		}
	})
	return true
}

// CloseConns closes the connections that are open now, as a crash of the server does. It does not wait.
func (s *Server) CloseConns() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// Close refuses new connections, closes those that are open, and waits until all goroutines have ended; a script that waits
// for something else than c must heed c.Done. It returns the errors with which scripts and hooks failed, joined.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.ln != nil {
		s.ln.Close()
	}
	s.mu.Unlock()
	s.CloseConns()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}
