package fakewal

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// ErrGone says that the connection is closed, by either side, or, for what waits for statuses, that the client has sent
// CopyDone. A script that returns it has not failed.
var ErrGone = errors.New("fakewal: the client is gone")

// Error is what PostgreSQL reports with severity ERROR: the connection stays usable. sqlstate has five characters.
func Error(sqlstate, message string) error {
	return &pgconn.PgError{Severity: "ERROR", Code: sqlstate, Message: message}
}

// Fatal is what PostgreSQL reports with severity FATAL: the connection is closed behind it.
func Fatal(sqlstate, message string) error {
	return &pgconn.PgError{Severity: "FATAL", Code: sqlstate, Message: message}
}

// Conn is one connection of a client. A script has it for the length of a stream.
//
// Two goroutines serve a connection: run does what the client asks for and plays scripts, read receives. A third one, attend,
// exists while a stream does.
type Conn struct {
	PID    uint32            // as BackendKeyData says
	Params map[string]string // of the startup packet: user, database, replication, application_name …
	Start  Start             // the command that began the stream

	srv     *Server
	wire    *wire
	backend *pgproto3.Backend
	out     chan struct{} // holds a token while somebody writes; a mutex would keep a bubble's clock from moving
	asked   chan any      // what the client asks for outside of a stream: a query (string), or the message to answer with
	gone    chan struct{} // closed by read when nothing more will come

	temp  []string // slots that go with the connection; guarded by srv.mu
	ended bool     // a logical stream has ended in order

	mu     sync.Mutex
	stream *stream // nil outside of one
}

func newConn(s *Server, nc net.Conn, pid uint32) *Conn {
	w := newWire(nc)
	return &Conn{
		PID: pid, srv: s, wire: w, backend: pgproto3.NewBackend(w, nil),
		out: make(chan struct{}, 1), asked: make(chan any), gone: make(chan struct{}),
	}
}

// run is the connection's life. Its error is one of a script or hook.
func (c *Conn) run() error {
	defer c.Close() // again, for what the connection took after somebody closed it
	if c.negotiate() != nil {
		return nil
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer c.Close()
	reading.Go(c.read)
	for err := c.welcome(); ; {
		switch e := (*pgconn.PgError)(nil); {
		case errors.Is(err, ErrGone):
			return nil
		case errors.As(err, &e):
			c.release()
			if c.sendError(e) != nil || e.Severity != "ERROR" || c.Send(ready) != nil {
				return nil
			}
		case err != nil:
			return err
		}
		select {
		case ask := <-c.asked:
			err = c.answer(ask)
		case <-c.gone:
			return nil
		}
	}
}

// read receives until the connection ends. Messages of a stream that is over are ignored, as PostgresMain does.
func (c *Conn) read() {
	defer close(c.gone)
	failed := false // in the extended protocol: skip to Sync
	for {
		msg, err := c.backend.Receive()
		if err != nil {
			return
		}
		var ask any
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			c.heard(m.Data)
		case *pgproto3.CopyDone:
			c.heardDone()
		case *pgproto3.CopyFail:
		case *pgproto3.Terminate:
			return
		case *pgproto3.Query:
			ask = m.String
		case *pgproto3.Sync:
			failed, ask = false, ready
		default:
			if !failed {
				failed, ask = true, errExtended
			}
		}
		if ask == nil {
			continue
		}
		select {
		case c.asked <- ask:
		case <-c.wire.closed:
			return
		}
	}
}

// errExtended is walsender.c's forbidden_in_wal_sender. ReadyForQuery comes with the client's Sync.
var errExtended = &pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "08P01",
	Message: "extended query protocol not supported in a replication connection"}

func (c *Conn) answer(ask any) error {
	if sql, ok := ask.(string); ok {
		return c.query(sql)
	}
	return c.Send(ask.(pgproto3.BackendMessage))
}

// query answers one simple query or replication command.
func (c *Conn) query(sql string) error {
	c.srv.mu.Lock()
	c.srv.queries = append(c.srv.queries, sql)
	hook := c.srv.state.Query
	c.srv.mu.Unlock()

	toks := lex(sql)
	if len(toks) == 0 {
		return c.Send(&pgproto3.EmptyQueryResponse{}, ready)
	}
	var res *Result
	var err error
	if hook != nil {
		res, err = hook(c, sql)
	}
	if res == nil && err == nil {
		if toks[0].is("START_REPLICATION") && c.replication() {
			return c.startReplication(sql, toks)
		}
		res, err = c.command(toks)
	}
	if err != nil {
		return err
	}
	return c.sendResult(res)
}

// replication reports whether this is a connection of a walsender.
func (c *Conn) replication() bool { return c.Params["replication"] != "" }

func (c *Conn) sendResult(r *Result) error {
	var msgs []pgproto3.BackendMessage
	if len(r.Columns) > 0 {
		desc := &pgproto3.RowDescription{}
		for _, name := range r.Columns {
			desc.Fields = append(desc.Fields, pgproto3.FieldDescription{
				Name: []byte(name), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1,
			})
		}
		msgs = append(msgs, desc)
	}
	for i := range r.Rows {
		msgs = append(msgs, &pgproto3.DataRow{Values: r.row(i)})
	}
	done := r.Tag
	if done == "" {
		done = fmt.Sprint("SELECT ", len(r.Rows))
	}
	return c.Send(append(msgs, tag(done), ready)...)
}

func (c *Conn) sendError(e *pgconn.PgError) error {
	return c.Send(&pgproto3.ErrorResponse{
		Severity: e.Severity, SeverityUnlocalized: e.Severity, Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint,
	})
}

func tag(s string) pgproto3.BackendMessage { return &pgproto3.CommandComplete{CommandTag: []byte(s)} }

var ready = &pgproto3.ReadyForQuery{TxStatus: 'I'}

// Send sends messages of any kind: NoticeResponse, ParameterStatus …, in one write.
func (c *Conn) Send(msgs ...pgproto3.BackendMessage) error {
	var b []byte
	var err error
	for _, m := range msgs {
		if b, err = m.Encode(b); err != nil {
			return err
		}
	}
	return c.Raw(b)
}

// Raw sends bytes as they are, in one write. It blocks while the client does not read. Its error is ErrGone.
func (c *Conn) Raw(b []byte) error {
	_, err := c.writing(func() (int64, error) {
		n, err := c.wire.Write(b)
		return int64(n), err
	})
	return err
}

// writing runs f while nobody else writes.
func (c *Conn) writing(f func() (int64, error)) (int64, error) {
	c.out <- struct{}{}
	defer func() { <-c.out }()
	n, err := f()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	return n, err
}

// Done is closed when the connection is closed by either side.
func (c *Conn) Done() <-chan struct{} { return c.gone }

// Close closes the connection without a word, as a killed server does. What was sent before still arrives. Slots are
// released first, so that a client that reconnects finds them free.
func (c *Conn) Close() {
	c.release()
	c.wire.Close()
}

// Reset is Close with a TCP reset: the client loses what it has not read yet.
func (c *Conn) Reset() {
	c.release()
	c.wire.reset()
}

// Stall takes the network away in both directions, as a pulled cable does: what is sent is lost, what the client sends,
// Close included, is not seen. The slot stays active until the wal_sender_timeout or Close.
func (c *Conn) Stall() { c.wire.stalled.Store(true) }

// Throttle limits what is sent from now on to so many bytes per second; 0 lifts the limit.
func (c *Conn) Throttle(bytesPerSecond int) { c.wire.rate.Store(int64(bytesPerSecond)) }

// release gives back what the connection held: at its end, and at every error, which costs the session its temporary slots
// (postgres.c, PostgresMain: ReplicationSlotCleanup).
func (c *Conn) release() {
	c.srv.Update(func(s *State) {
		for _, slot := range s.Slots {
			if slot.ActivePID == c.PID {
				slot.ActivePID = 0
			}
		}
		for _, name := range c.temp {
			delete(s.Slots, name)
		}
		c.temp = nil
	})
}
