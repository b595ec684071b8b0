// Package walchantest tests what consumes a walchan.Stream, without a PostgreSQL server.
//
//	orders := walchantest.NewTable("orders", "id bigint primary key", "status text")
//	srv := walchantest.NewServer(
//		walchantest.Tx(orders.Insert(1, "new"), orders.Insert(2, "new")),
//		orders.Update(1, "paid"),
//		orders.Delete(2),
//	)
//	defer srv.Close()
//	stream, err := srv.Subscribe(t.Context())
//	if err != nil {
//		t.Fatal(err)
//	}
//	err = handle(t.Context(), stream) // what is to be tested: receives, acknowledges, closes
//	if n := srv.Unacknowledged(); len(n) > 0 {
//		t.Errorf("messages %v were not acknowledged", n)
//	}
//
// The stream is a real one. It is connected in memory to a server that speaks PostgreSQL's protocol and plays the entries
// given to it; decoding, acknowledging, confirming and stopping are those of a program in earnest. A function that takes one
// message is tested with Messages.
//
// It works in the bubbles of testing/synctest too. Mistakes in an entry, such as a row with too few columns, panic.
package walchantest

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/kit"
)

const (
	name  = "walchantest" // of the slot and the publication
	start = walchan.LSN(0x1000000)
)

// Server plays entries to the streams that are subscribed to it. It remembers what they confirm: a second stream begins
// behind that, as a program does that is started again. Its methods may be called from any goroutine.
type Server struct {
	fake *fakewal.Server
	log  []placed
	idle bool  // Idle ends the log
	fail error // Fail does

	mu     sync.Mutex
	stream *walchan.Stream // the last one
	stop   func()          // ends it
	begun  bool            // Subscribe has it
	atEnd  func()          // what is to be done once it has; nil: the log has not come to its end
	failed bool            // nobody can connect any more
}

// NewServer returns a server with these entries in its write-ahead log.
func NewServer(entries ...Entry) *Server {
	s := &Server{fake: fakewal.New()}
	for _, e := range entries {
		e.addTo(s)
	}
	s.fake.Update(func(state *fakewal.State) {
		state.Publications = []string{name}
		state.Slots[name] = fakewal.LogicalSlot(start)
	})
	s.fake.Serve(s.play)
	return s
}

// Subscribe is walchan.Subscribe without a connection string. The stream delivers the entries and ends, as if ctx were
// cancelled behind the last of them, unless that is Idle or Fail. It can be cancelled and closed before.
//
// Options are applied over the server's own: leave out WithSlot, WithPublication, WithPlugin, WithConnect and WithRetry. It
// logs nothing unless there is a WithLogger.
func (s *Server) Subscribe(ctx context.Context, opts ...walchan.Option) (*walchan.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.stop, s.begun, s.atEnd = cancel, false, nil
	s.mu.Unlock()
	stream, err := walchan.Subscribe(ctx, fakewal.DSN, append([]walchan.Option{
		walchan.WithSlot(name),
		walchan.WithPublication(name),
		walchan.WithConnect(s.connect),
		walchan.WithRetry(func() backoff.BackOff { return backoff.WithMaxRetries(&backoff.ZeroBackOff{}, 1) }),
		walchan.WithLogger(slog.New(slog.DiscardHandler)),
		walchan.WithStatusInterval(5 * time.Millisecond), // by its status the server knows what was delivered
	}, opts...)...)
	if err != nil {
		cancel()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream, s.begun = stream, true
	if s.atEnd != nil {
		s.atEnd()
	}
	return stream, nil
}

func (s *Server) connect(ctx context.Context, cfg *pgconn.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed {
		return s.fail
	}
	return s.fake.Configure(ctx, cfg)
}

// play is what the server does on a connection, once it streams.
func (s *Server) play(c *fakewal.Conn) error {
	known, end := relations{}, c.Start.From
	for _, e := range s.log {
		if e.end <= c.Start.From {
			continue // confirmed, or not in the log
		}
		if err := c.Play(e.frames(known)...); err != nil {
			return err
		}
		end = e.end
	}
	// What was received, as a status has it, was delivered.
	for received := walchan.LSN(0); received < end; {
		status, err := c.ReadStatus()
		if err != nil {
			return err
		}
		received = status.Write
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.atEnd = func() {
		switch {
		case s.fail != nil:
			s.failed = true
			c.Close()
		case !s.idle:
			s.stop()
		}
	}
	if s.begun { // else Subscribe does it: while it proves the history, there are statuses, too
		s.atEnd()
	}
	return nil
}

// Confirmed returns how many entries, from the first on, were confirmed to the server: they are not sent again. It is final
// once the stream is closed.
func (s *Server) Confirmed() int {
	slot, _ := s.fake.Slot(name)
	n := 0
	for n < len(s.log) && s.log[n].end <= slot.ConfirmedFlush {
		n++
	}
	return n
}

// Unacknowledged returns the numbers, from 0 in the order of delivery, of the messages that the last stream has delivered
// and that are not acknowledged. It is final once the stream is closed.
func (s *Server) Unacknowledged() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == nil {
		return nil
	}
	return kit.Unacknowledged(s.stream)
}

// Close closes the last stream, and the server. Confirmed and Unacknowledged may still be asked.
func (s *Server) Close() {
	s.mu.Lock()
	stream, stop := s.stream, s.stop
	s.mu.Unlock()
	if stream != nil {
		_ = stream.Close() // its owner has been told, or did not want to know
		stop()
	}
	if err := s.fake.Close(); err != nil {
		panic(err)
	}
}

// Messages returns the messages that a stream delivers for these entries: for testing what deals with one at a time. They have
// checkpoints, and their acknowledgement does nothing. Entries cannot include Idle.
func Messages(entries ...Entry) []walchan.Message {
	srv := NewServer(entries...)
	defer srv.Close()
	stream, err := srv.Subscribe(context.Background(), walchan.WithCheckpoint(walchan.Checkpoint{}), walchan.WithFrom(start))
	if err != nil {
		panic(err)
	}
	var all []walchan.Message
	for m := range stream.C() {
		all = append(all, m)
		stream.Ack(m)
	}
	return all
}
