package fakewal

import (
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Status is one standby status update.
type Status struct {
	Write, Flush, Apply LSN
	Reply               bool      // the client asks for a keepalive (which it gets without the script)
	Clock               time.Time // the client's, microseconds
	At                  time.Time // when it was received
}

// stream is what is known of a stream while it lasts.
type stream struct {
	slot     string
	pos      LSN // sentPtr: what keepalives say
	statuses []Status
	read     int  // statuses returned by ReadStatus
	done     bool // the client has sent CopyDone
	doneSent bool // guarded by Conn.out

	next      int32 // the timeline that follows, 0: none
	nextStart LSN

	reply, ping bool          // keepalives that attend shall send
	busy        bool          // not now
	due         chan struct{} // wakes attend
	changed     chan struct{} // closed and replaced when statuses or done change

	timers
}

// timers ask a client from which nothing comes for a reply, and then hang up.
type timers struct {
	timeout    time.Duration // wal_sender_timeout; 0: there are none
	pinger     *time.Timer
	terminator *time.Timer
}

// restart is called whenever something comes.
func (t *timers) restart() {
	if t.timeout > 0 {
		t.pinger.Reset(t.timeout / 2)
		t.terminator.Reset(t.timeout)
	}
}

func (t *timers) stop() {
	if t.timeout > 0 {
		t.pinger.Stop()
		t.terminator.Stop()
	}
}

// play is a stream from CopyBothResponse to ReadyForQuery.
func (c *Conn) play(script Script, timeout time.Duration) error {
	st := &stream{slot: c.Start.Slot, pos: c.Start.From, due: make(chan struct{}, 1), changed: make(chan struct{}), timers: timers{timeout: timeout}}
	if timeout > 0 {
		// The ping is written by attend, where it may have to wait behind data that nobody reads. The end must not wait.
		st.pinger = time.AfterFunc(timeout/2, func() { c.mu.Lock(); st.ping = true; c.mu.Unlock(); st.wake() })
		st.terminator = time.AfterFunc(timeout, c.Close)
	}
	c.mu.Lock()
	c.stream = st
	c.mu.Unlock()
	over := make(chan struct{})
	var attending sync.WaitGroup
	attending.Go(func() { c.attend(st, over) })
	alone := sync.OnceFunc(func() { close(over); attending.Wait() }) // no keepalive behind the end
	defer func() {
		c.mu.Lock()
		c.stream = nil
		c.mu.Unlock()
		st.stop()
		alone()
	}()

	err := c.Send(&pgproto3.CopyBothResponse{})
	if err == nil && script != nil {
		err = script(c)
	}
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if err := c.AwaitDone(); err != nil { // ErrGone in the script may have meant just that
		return err
	}
	alone()
	if err := c.copyDone(st); err != nil {
		return err
	}
	return c.complete(st)
}

func (s *stream) wake() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// attend writes what a walsender sends by itself, so that read never has to wait for the client to read.
func (c *Conn) attend(st *stream, over <-chan struct{}) {
	for {
		select {
		case <-st.due:
		case <-over:
			return
		}
		c.mu.Lock()
		if st.busy {
			c.mu.Unlock()
			continue
		}
		reply, ping, done, pos := st.reply, st.ping, st.done, st.pos
		st.reply, st.ping = false, false
		c.mu.Unlock()
		if reply || ping {
			c.Raw(AppendKeepalive(nil, pos, ping))
		}
		if done {
			c.copyDone(st)
		}
	}
}

// Busy answers nothing for d, as a walsender that decodes a transaction of which it sends nothing; wal_sender_timeout is to
// be off.
func (c *Conn) Busy(d time.Duration) {
	busy := func(is bool) {
		c.await(func(st *stream) bool { st.busy = is; st.wake(); return true })
	}
	busy(true)
	time.Sleep(d)
	busy(false)
}

// copyDone sends CopyDone, once. A walsender answers the client's at once, and may send data behind it
// (walsender.c, ProcessRepliesIfAny).
func (c *Conn) copyDone(st *stream) error {
	_, err := c.writing(func() (int64, error) {
		if st.doneSent {
			return 0, nil
		}
		st.doneSent = true
		b, _ := (&pgproto3.CopyDone{}).Encode(nil)
		n, err := c.wire.Write(b)
		return int64(n), err
	})
	return err
}

// heard takes a message of the client in the stream (Hot Standby feedback counts as life only).
func (c *Conn) heard(b []byte) {
	c.mu.Lock()
	st := c.stream
	if st == nil || st.done {
		c.mu.Unlock()
		return
	}
	st.ping = false
	st.restart()
	if len(b) != 34 || b[0] != 'r' {
		c.mu.Unlock()
		return
	}
	at := func(i int) uint64 { return be.Uint64(b[i:]) }
	s := Status{
		Write: LSN(at(1)), Flush: LSN(at(9)), Apply: LSN(at(17)),
		Clock: fromMicros(int64(at(25))), Reply: b[33] != 0, At: time.Now(),
	}
	st.statuses = append(st.statuses, s)
	st.reply = st.reply || s.Reply
	st.announce()
	c.mu.Unlock()
	if s.Reply {
		st.wake()
	}
	c.srv.Update(func(state *State) {
		if slot := state.Slots[st.slot]; slot != nil && slot.ActivePID == c.PID {
			if slot.Plugin == "" {
				slot.RestartLSN = max(slot.RestartLSN, s.Flush)
			} else {
				slot.ConfirmedFlush = max(slot.ConfirmedFlush, s.Flush)
			}
		}
	})
}

func (c *Conn) heardDone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.stream; st != nil {
		st.done = true
		st.announce()
		st.wake()
	}
}

func (s *stream) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns once ok, which is called with c.mu held, does; or with ErrGone when nothing can change any more.
func (c *Conn) await(ok func(*stream) bool) error {
	for last := false; ; {
		c.mu.Lock()
		st := c.stream
		if st == nil {
			panic("fakewal: there is no stream")
		}
		good, done, changed := ok(st), st.done, st.changed
		c.mu.Unlock()
		switch {
		case good:
			return nil
		case last || done:
			return ErrGone
		}
		select {
		case <-changed:
		case <-c.gone:
			last = true
		}
	}
}

// ReadStatus returns the statuses one after another, and waits for the next.
func (c *Conn) ReadStatus() (s Status, err error) {
	err = c.await(func(st *stream) bool {
		if st.read == len(st.statuses) {
			return false
		}
		s = st.statuses[st.read]
		st.read++
		return true
	})
	return s, err
}

// AwaitFlush waits until a status has confirmed lsn or more, and returns the first that did. It does not concern ReadStatus.
func (c *Conn) AwaitFlush(lsn LSN) (s Status, err error) {
	seen := 0
	err = c.await(func(st *stream) bool {
		for ; seen < len(st.statuses); seen++ {
			if s = st.statuses[seen]; s.Flush >= lsn {
				return true
			}
		}
		return false
	})
	return s, err
}

// Statuses returns all statuses of the stream so far.
func (c *Conn) Statuses() (all []Status) {
	c.await(func(st *stream) bool { all = append(all, st.statuses...); return true })
	return all
}

// AwaitDone waits for the client's CopyDone. The server's is sent without the script, and the rest of the farewell when the
// script returns.
func (c *Conn) AwaitDone() error { return c.await(func(st *stream) bool { return st.done }) }

// Data sends one XLogData message; it blocks while the client does not read. pgoutput's have end = start.
func (c *Conn) Data(start, end LSN, payload []byte) error {
	return c.Play(Frame{start, end, payload})
}

// Play sends XLogData messages in one write.
func (c *Conn) Play(frames ...Frame) error {
	var b []byte
	var pos LSN
	for _, f := range frames {
		b = f.Append(b)
		pos = max(pos, f.Start, f.End)
	}
	c.reached(pos)
	return c.Raw(b)
}

// Keepalive sends a primary keepalive message.
func (c *Conn) Keepalive(walEnd LSN, reply bool) error {
	c.reached(walEnd)
	return c.Raw(AppendKeepalive(nil, walEnd, reply))
}

// reached moves the position of later keepalives, and the end of WAL, forward.
func (c *Conn) reached(pos LSN) {
	c.await(func(st *stream) bool { st.pos = max(st.pos, pos); return true })
	c.srv.Update(func(s *State) { s.WALEnd = max(s.WALEnd, pos) })
}

// Cut sends the first n bytes of the message of f (30 are its header), closes the connection, and returns ErrGone.
func (c *Conn) Cut(f Frame, n int) error {
	if err := c.Raw(f.Append(nil)[:n]); err != nil {
		return err
	}
	c.Close()
	return ErrGone
}

// EndTimeline ends a physical stream as the end of a historic timeline does: CopyDone, and, when the client has answered
// it, the timeline that follows and where. The script returns nil behind it.
func (c *Conn) EndTimeline(next int32, start LSN) error {
	var st *stream
	c.await(func(s *stream) bool { st = s; st.next, st.nextStart = next, start; return true })
	return c.copyDone(st)
}

// Shutdown plays a fast shutdown, which waits without limit until exactly the position of the last message is flushed, and
// asks for it again as soon as a reply has come (walsender.c, WalSndDone). Then it sends COPY 0, without CopyDone, closes
// the connection and returns ErrGone. A client that always replies at once keeps a bubble's clock from moving.
func (c *Conn) Shutdown() error {
	for seen := len(c.Statuses()); ; {
		var s Status
		var pos LSN
		c.await(func(st *stream) bool { pos = st.pos; return true })
		if err := c.Keepalive(pos, true); err != nil {
			return err
		}
		if err := c.await(func(st *stream) bool {
			if seen == len(st.statuses) {
				return false
			}
			seen = len(st.statuses)
			s = st.statuses[seen-1]
			return true
		}); err != nil {
			return err
		}
		if s.Flush == pos || s.Flush == 0 && s.Write == pos {
			break
		}
	}
	if err := c.Send(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}); err != nil {
		return err
	}
	c.Close()
	return ErrGone
}
