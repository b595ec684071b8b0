package fakewal

import (
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Start is a START_REPLICATION command.
type Start struct {
	SQL      string
	PID      uint32 // of the connection
	Slot     string
	Logical  bool
	LSN      LSN               // what the client asked for
	From     LSN               // where the stream begins: not below what the slot has confirmed
	Timeline int32             // 0: not given
	Options  map[string]string // of the output plugin; one without a value is ""
}

// reader takes tokens from the front.
type reader struct{ toks []token }

func (r *reader) peek() (t token) {
	if len(r.toks) > 0 {
		t = r.toks[0]
	}
	return t
}

func (r *reader) take() token {
	t := r.peek()
	r.toks = r.toks[min(1, len(r.toks)):]
	return t
}

// skip takes the keyword or character, if it comes next.
func (r *reader) skip(what string) bool {
	t := r.peek()
	if t.is(what) || len(what) == 1 && t.kind == what[0] {
		r.take()
		return true
	}
	return false
}

func syntaxError(near token) error {
	if near.kind == 0 {
		return Error("42601", "syntax error at end of input")
	}
	return Error("42601", fmt.Sprintf("syntax error at or near %q", near.text))
}

// parseStart reads START_REPLICATION [SLOT name] [PHYSICAL | LOGICAL] lsn [TIMELINE n] [(option ['value'], …)].
func parseStart(sql string, toks []token) (Start, error) {
	s, r := Start{SQL: sql, Options: map[string]string{}}, &reader{toks[1:]}
	if r.skip("SLOT") {
		s.Slot, _ = r.take().name()
	}
	if s.Logical = r.skip("LOGICAL"); !s.Logical {
		r.skip("PHYSICAL")
	}
	var err error
	t := r.take()
	if s.LSN, err = pglogrepl.ParseLSN(t.text); err != nil {
		return s, syntaxError(t)
	}
	if r.skip("TIMELINE") {
		n, err := strconv.ParseInt(r.peek().text, 10, 32)
		if err != nil {
			return s, syntaxError(r.peek())
		}
		s.Timeline = int32(n)
		r.take()
	}
	if r.skip("(") {
		for !r.skip(")") {
			name, ok := r.take().name()
			if !ok {
				return s, syntaxError(r.peek())
			}
			s.Options[name] = ""
			if r.peek().kind == 'l' {
				s.Options[name] = r.take().text
			}
			if !r.skip(",") && r.peek().kind != ')' {
				return s, syntaxError(r.peek())
			}
		}
	}
	if len(r.toks) > 0 {
		return s, syntaxError(r.peek())
	}
	return s, nil
}

// startReplication takes the slot, and plays the next script. A second logical stream on a connection ends at once, for the
// walsender still knows that the first was done.
func (c *Conn) startReplication(sql string, toks []token) error {
	start, err := parseStart(sql, toks)
	if err != nil {
		return err
	}
	if start.Logical && c.ended {
		return c.Send(&pgproto3.CopyBothResponse{}, tag("COPY 0"), tag("START_REPLICATION"), ready)
	}
	script, timeout, err := c.srv.begin(c, &start)
	if err != nil {
		return err
	}
	c.Start = start
	return c.play(script, timeout)
}

func (s *Server) begin(c *Conn, start *Start) (script Script, timeout time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start.PID, start.From = c.PID, start.LSN
	if start.Slot != "" || start.Logical {
		slot := s.state.Slots[start.Slot]
		switch {
		case slot == nil:
			return nil, 0, Error("42704", fmt.Sprintf("replication slot %q does not exist", start.Slot))
		case slot.ActivePID != 0 && slot.ActivePID != c.PID:
			return nil, 0, Error("55006", fmt.Sprintf("replication slot %q is active for PID %d", start.Slot, slot.ActivePID))
		}
		slot.ActivePID = c.PID
		if start.Logical {
			start.From = max(start.LSN, slot.ConfirmedFlush)
		}
	}
	s.starts = append(s.starts, *start)
	if len(s.scripts) > 0 {
		script = s.scripts[min(s.next, len(s.scripts)-1)]
		s.next++
	}
	return script, s.state.SenderTimeout, nil
}

// complete ends a stream whose CopyDone went both ways, with the messages that PostgreSQL 15 was seen to send: a logical
// stream's keepalive does stand behind CopyDone. The slot is free before the client can know; a temporary one stays its
// session's.
func (c *Conn) complete(st *stream) error {
	c.ended = c.ended || c.Start.Logical
	c.srv.Update(func(s *State) {
		if slot := s.Slots[st.slot]; slot != nil && slot.ActivePID == c.PID && !slot.Temporary {
			slot.ActivePID = 0
		}
	})
	var msgs []pgproto3.BackendMessage
	switch {
	case c.Start.Logical:
		if err := c.Raw(AppendKeepalive(nil, st.pos, false)); err != nil {
			return err
		}
		msgs = append(msgs, tag("COPY 0"))
	case st.next != 0:
		msgs = append(msgs, &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
			{Name: []byte("next_tli"), DataTypeOID: 20, DataTypeSize: 8, TypeModifier: -1},
			{Name: []byte("next_tli_startpos"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1},
		}}, &pgproto3.DataRow{Values: [][]byte{fmt.Append(nil, st.next), fmt.Append(nil, st.nextStart)}})
		fallthrough
	default:
		msgs = append(msgs, tag("START_STREAMING"))
	}
	return c.Send(append(msgs, tag("START_REPLICATION"), ready)...)
}

// command gives the default answer to all other commands and queries.
func (c *Conn) command(toks []token) (res *Result, err error) {
	r := &reader{toks[1:]}
	c.srv.Update(func(s *State) {
		switch cmd := toks[0]; {
		case cmd.is("SHOW"):
			res, err = show(s, r)
		case cmd.is("SELECT"):
			if c.Params["replication"] != "" && c.Params["replication"] != "database" {
				err = Error("0A000", "cannot execute SQL commands in WAL sender for physical replication")
				return
			}
			res, err = selectFrom(s, c, r)
		case !c.replication():
			err = syntaxError(cmd)
		case cmd.is("IDENTIFY_SYSTEM"):
			res = identify(s, c)
		case cmd.is("TIMELINE_HISTORY"):
			res, err = history(s, r)
		case cmd.is("CREATE_REPLICATION_SLOT"):
			res, err = createSlot(s, c, r)
		case cmd.is("DROP_REPLICATION_SLOT"):
			res, err = dropSlot(s, c, r)
		default:
			err = syntaxError(cmd)
		}
	})
	return res, err
}

func identify(s *State, c *Conn) *Result {
	var db any
	if c.Params["replication"] == "database" {
		db = c.Params["database"]
	}
	return &Result{
		Columns: []string{"systemid", "timeline", "xlogpos", "dbname"},
		Rows:    [][]any{{s.SystemID, s.Timeline, s.WALEnd, db}},
		Tag:     "IDENTIFY_SYSTEM",
	}
}

func show(s *State, r *reader) (*Result, error) {
	name, _ := r.take().name()
	v, ok := s.setting(name)
	if !ok {
		return nil, Error("42704", fmt.Sprintf("unrecognized configuration parameter %q", name))
	}
	return &Result{Columns: []string{name}, Rows: [][]any{{v}}, Tag: "SHOW"}, nil
}

func history(s *State, r *reader) (*Result, error) {
	n, err := strconv.ParseInt(r.peek().text, 10, 32)
	if err != nil {
		return nil, syntaxError(r.peek())
	}
	name := fmt.Sprintf("%08X.history", n)
	content, ok := s.Histories[int32(n)]
	if !ok {
		return nil, Error("58P01", fmt.Sprintf("could not open file \"pg_wal/%s\": No such file or directory", name))
	}
	return &Result{Columns: []string{"filename", "content"}, Rows: [][]any{{name, content}}, Tag: "TIMELINE_HISTORY"}, nil
}

// createSlot knows both forms of the options, the old words and, since 15, the list in parentheses.
func createSlot(s *State, c *Conn, r *reader) (*Result, error) {
	name, _ := r.take().name()
	if s.Slots[name] != nil {
		return nil, Error("42710", fmt.Sprintf("replication slot %q already exists", name))
	}
	slot, temporary := &Slot{}, r.skip("TEMPORARY")
	var snapshot, plugin any
	if r.skip("LOGICAL") {
		slot = LogicalSlot(s.WALEnd)
		slot.Plugin, _ = r.take().name()
		slot.Database = c.Params["database"]
		snapshot, plugin = fmt.Sprintf("%08X-00000001-1", c.PID), slot.Plugin
	}
	for len(r.toks) > 0 {
		switch t := r.take(); {
		case t.is("RESERVE_WAL"):
			slot.RestartLSN, slot.WALStatus = s.WALEnd, "reserved"
		case t.is("TWO_PHASE"):
			slot.TwoPhase = true
		case t.is("FAILOVER"):
			slot.Failover = true
		case t.is("NOEXPORT_SNAPSHOT"), t.is("USE_SNAPSHOT"), t.is("nothing"), t.is("use"),
			t.kind == 'l' && (t.text == "nothing" || t.text == "use"):
			snapshot = nil
		}
	}
	s.Slots[name] = slot
	if slot.Temporary = temporary; temporary {
		slot.ActivePID = c.PID
		c.temp = append(c.temp, name)
	}
	return &Result{
		Columns: []string{"slot_name", "consistent_point", "snapshot_name", "output_plugin"},
		Rows:    [][]any{{name, slot.ConfirmedFlush, snapshot, plugin}},
		Tag:     "CREATE_REPLICATION_SLOT",
	}, nil
}

func dropSlot(s *State, c *Conn, r *reader) (*Result, error) {
	name, _ := r.take().name()
	slot := s.Slots[name]
	switch {
	case slot == nil:
		return nil, Error("42704", fmt.Sprintf("replication slot %q does not exist", name))
	case slot.ActivePID != 0 && slot.ActivePID != c.PID:
		return nil, Error("55006", fmt.Sprintf("replication slot %q is active for PID %d", name, slot.ActivePID))
	}
	delete(s.Slots, name)
	return &Result{Tag: "DROP_REPLICATION_SLOT"}, nil
}
