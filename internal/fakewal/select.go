package fakewal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Just enough SQL for what a client asks of a walsender:
//
//	SELECT item [, …] [FROM pg_replication_slots | pg_publication | pg_stat_activity [alias] [WHERE condition [AND …]]]
//
// An item is a column, a literal, or a call of one of the functions below, each with casts (which are ignored) and an
// alias. A condition is a boolean item, item = item, item IN (…) or item = ANY (…). Anything else is answered with an
// error that points to State.Query.

// row is a row of a table.
type row map[string]any

func slotRow(s *State, name string, slot *Slot) row {
	null := func(v any, is bool) any {
		if is {
			return nil
		}
		return v
	}
	physical := slot.Plugin == ""
	r := row{
		"slot_name": name, "slot_type": onOff(physical, "physical", "logical"),
		"plugin": null(slot.Plugin, physical), "database": null(slot.Database, physical),
		"temporary": slot.Temporary, "two_phase": slot.TwoPhase,
		"active": slot.ActivePID != 0, "active_pid": null(slot.ActivePID, slot.ActivePID == 0),
		"restart_lsn":         null(slot.RestartLSN, slot.RestartLSN == 0),
		"confirmed_flush_lsn": null(slot.ConfirmedFlush, slot.ConfirmedFlush == 0),
		"wal_status":          null(slot.WALStatus, slot.WALStatus == ""),
	}
	if s.major() >= 16 {
		r["conflicting"] = slot.Invalidation == "rows_removed" || slot.Invalidation == "wal_level_insufficient"
	}
	if s.major() >= 17 {
		r["invalidation_reason"] = null(slot.Invalidation, slot.Invalidation == "")
		r["failover"], r["synced"] = slot.Failover, slot.Synced
	}
	return r
}

func publicationRow(name string) row {
	return row{"pubname": name, "puballtables": false, "pubinsert": true, "pubupdate": true, "pubdelete": true,
		"pubtruncate": true, "pubviaroot": false}
}

func activityRow(s *State, pid uint32) row {
	return row{"pid": pid, "backend_start": fmt.Sprintf("start of %d", pid), "wait_event_type": s.Waiting[0], "wait_event": s.Waiting[1]}
}

// table returns the rows of a table, and one that only shows its columns.
func table(s *State, name string) (model row, rows []row, err error) {
	switch name {
	case "pg_replication_slots":
		for _, slot := range slices.Sorted(maps.Keys(s.Slots)) {
			rows = append(rows, slotRow(s, slot, s.Slots[slot]))
		}
		return slotRow(s, "", &Slot{}), rows, nil
	case "pg_publication":
		for _, name := range s.Publications {
			rows = append(rows, publicationRow(name))
		}
		return publicationRow(""), rows, nil
	case "pg_stat_activity":
		for pid := range s.backends {
			rows = append(rows, activityRow(s, pid))
		}
		return activityRow(s, 0), rows, nil
	}
	return nil, nil, Error("42P01", fmt.Sprintf("fakewal: no relation %q; State.Query can answer", name))
}

// selection is a SELECT while it is read, for one row after another.
type selection struct {
	*reader
	state *State
	conn  *Conn
	row   row
}

func selectFrom(s *State, c *Conn, r *reader) (*Result, error) {
	toks, where := r.toks, []token(nil)
	model, rows := row{}, []row{{}}
	if i := slices.IndexFunc(toks, func(t token) bool { return t.is("FROM") }); i >= 0 {
		r.toks = toks[i+1:]
		var err error
		if model, rows, err = table(s, r.name()); err != nil {
			return nil, err
		}
		if r.skip("AS"); !r.peek().is("WHERE") {
			r.take() // alias
		}
		if len(r.toks) > 0 && !r.skip("WHERE") {
			return nil, unknown(r)
		}
		toks, where = toks[:i], r.toks
	}
	sel := &selection{r, s, c, model}
	columns, _, err := sel.list(toks)
	res := &Result{Columns: columns}
	for _, row := range rows {
		if err != nil {
			break
		}
		var match bool
		var values []any
		sel.row = row
		if match, err = sel.matches(where); match {
			_, values, err = sel.list(toks)
			res.Rows = append(res.Rows, values)
		}
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

// list evaluates the items.
func (s *selection) list(toks []token) (names []string, values []any, err error) {
	s.toks = toks
	for {
		name, v, err := s.item()
		if err != nil {
			return nil, nil, err
		}
		if s.skip("AS") || s.peek().kind == 'w' || s.peek().kind == 'i' {
			name, _ = s.take().name()
		}
		names, values = append(names, name), append(values, v)
		if !s.skip(",") {
			break
		}
	}
	if len(s.toks) > 0 {
		return nil, nil, unknown(s.reader)
	}
	return names, values, nil
}

// matches evaluates the conditions.
func (s *selection) matches(toks []token) (bool, error) {
	all := true
	for s.toks = toks; len(s.toks) > 0; {
		_, v, err := s.item()
		if err != nil {
			return false, err
		}
		match := v == true
		if array := s.skip("="); array || s.skip("IN") {
			var values []any
			if array = array && s.skip("ANY"); array || s.peek().kind == '(' {
				_, values, err = s.arguments()
			} else {
				values = make([]any, 1)
				_, values[0], err = s.item()
			}
			if err != nil {
				return false, err
			}
			if array && len(values) == 1 {
				values = elements(values[0])
			}
			match = slices.ContainsFunc(values, func(w any) bool { return fmt.Sprint(v) == fmt.Sprint(w) })
		}
		if all = all && match; !s.skip("AND") && len(s.toks) > 0 {
			return false, unknown(s.reader)
		}
	}
	return all, nil
}

// elements of an array constructor or literal.
func elements(v any) (all []any) {
	if values, ok := v.([]any); ok {
		return values
	}
	for _, e := range strings.Split(strings.Trim(fmt.Sprint(v), "{}"), ",") {
		all = append(all, strings.Trim(e, `" `))
	}
	return all
}

// item evaluates one item, without its alias.
func (s *selection) item() (name string, v any, err error) {
	name = "?column?"
	switch t := s.peek(); {
	case t.kind == 'l', t.kind == 'w' && t.text[0] <= '9':
		v = s.take().text
	case t.is("NULL"):
		s.take()
	case t.is("ARRAY"):
		s.take()
		name, v, err = s.arguments()
	default:
		name = s.name()
		if s.peek().kind == '(' {
			v, err = s.call(name)
		} else if value, ok := s.row[name]; ok {
			v = value
		} else if name == "" {
			err = unknown(s.reader)
		} else {
			err = Error("42703", fmt.Sprintf("column %q does not exist", name))
		}
	}
	for err == nil && s.skip(":") && s.skip(":") {
		s.name()
		if s.skip("[") {
			s.skip("]")
		}
	}
	return name, v, err
}

func (s *selection) call(name string) (any, error) {
	_, args, err := s.arguments()
	if err != nil {
		return nil, err
	}
	switch {
	case name == "coalesce":
		for _, v := range args {
			if v != nil {
				return v, nil
			}
		}
		return nil, nil
	case name == "current_database":
		return s.conn.Params["database"], nil
	case name == "pg_backend_pid":
		return s.conn.PID, nil
	case name == "pg_is_in_recovery":
		return s.state.Standby, nil
	case name == "pg_postmaster_start_time":
		return s.state.Started.UTC().Format("2006-01-02 15:04:05.999999-07"), nil
	case name == "pg_current_wal_lsn", name == "pg_current_wal_flush_lsn", name == "pg_last_wal_replay_lsn":
		return s.state.WALEnd, nil
	case name == "current_setting" && len(args) > 0:
		if v, ok := s.state.setting(fmt.Sprint(args[0])); ok {
			return v, nil
		}
		return nil, Error("42704", fmt.Sprintf("unrecognized configuration parameter %q", args[0]))
	}
	return nil, Error("42883", fmt.Sprintf("fakewal: no function %s; State.Query can answer", name))
}

// arguments evaluates what stands in parentheses or brackets.
func (s *selection) arguments() (name string, values []any, err error) {
	end := "]"
	if !s.skip("[") {
		end = ")"
		s.skip("(")
	}
	for !s.skip(end) {
		_, v, err := s.item()
		if err != nil {
			return "", nil, err
		}
		if values = append(values, v); !s.skip(",") && s.peek().text != end {
			return "", nil, unknown(s.reader)
		}
	}
	return "array", values, nil
}

// name takes a name without its qualifiers.
func (r *reader) name() (name string) {
	for name, _ = r.take().name(); r.skip("."); {
		name, _ = r.take().name()
	}
	return name
}

func unknown(r *reader) error {
	return Error("0A000", fmt.Sprintf("fakewal: does not understand %q; State.Query can answer", r.peek().text))
}
