package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// The truth is what the server says when nothing fails: a slot of test_decoding is made before the first transaction, nobody
// touches it, and at the end pg_logical_slot_peek_changes decodes all that was written in one go. Neither walchan nor
// pgoutput has a part in it. That it is complete is checked against the table ledger: see checkLedger.
//
// Each server of a run has such a slot, which is made before it takes its first transaction. The truth of the run is that of
// its servers in succession, each up to where the next one has left its history: see cut and join.
const referenceSlot = "reference"

// A reference is what the consumers should have received, in order.
type reference struct {
	published []string         // by content: of a stream of the publication, with transactions
	effects   []effect         // of each of published
	ends      []walchan.LSN    // of the transaction of each of published
	raw       []string         // by payload: of a stream of test_decoding
	rawEnds   []walchan.LSN    // of the transaction of each of raw
	end       walchan.LSN      // of the last one
	ledger    map[string]noted // by a transaction's number in the table ledger
}

// noted describes a transaction.
type noted struct {
	changes int // that are published
	end     walchan.LSN
}

// cut returns what has ended at or before a position.
func (r *reference) cut(at walchan.LSN) *reference {
	n, raw := endedBy(r.ends, at), endedBy(r.rawEnds, at)
	c := &reference{published: r.published[:n:n], effects: r.effects[:n:n], ends: r.ends[:n:n], raw: r.raw[:raw:raw], rawEnds: r.rawEnds[:raw:raw],
		end: min(r.end, at), ledger: map[string]noted{}}
	for number, tx := range r.ledger {
		if tx.end <= at {
			c.ledger[number] = tx
		}
	}
	return c
}

// after returns what a slot that begins at a position sends.
func (r *reference) after(at walchan.LSN) *reference {
	n, raw := endedBy(r.ends, at), endedBy(r.rawEnds, at)
	return &reference{published: r.published[n:], effects: r.effects[n:], ends: r.ends[n:], raw: r.raw[raw:], rawEnds: r.rawEnds[raw:], end: r.end}
}

// endedBy returns how many have ended at or before a position. They are in the order in which they ended.
func endedBy(ends []walchan.LSN, at walchan.LSN) int {
	return sort.Search(len(ends), func(i int) bool { return ends[i] > at })
}

// join returns r and what the next server has.
func (r *reference) join(next *reference) *reference {
	j := &reference{published: slices.Concat(r.published, next.published), effects: slices.Concat(r.effects, next.effects), ends: slices.Concat(r.ends, next.ends),
		raw: slices.Concat(r.raw, next.raw), rawEnds: slices.Concat(r.rawEnds, next.rawEnds), end: max(r.end, next.end), ledger: maps.Clone(r.ledger)}
	maps.Copy(j.ledger, next.ledger)
	return j
}

// rows returns the rows after the last change, with their versions.
func (r *reference) rows() rowStates {
	c := newRowComparison(r, nil, nil)
	c.advance(len(r.effects))
	return c.want
}

// An effect is what a change leaves in a sink that has rows and not changes. The zero effect is nothing.
type effect struct {
	truncate string // the table
	gone     string // the row, "table key", that is no more
	row      string // the one that is there
	version  string // in which state: its identifying columns
	record   string // all that was sent of it
}

func newReference() *reference { return &reference{ledger: map[string]noted{}} }

func readReference(ctx context.Context, dsn string) (*reference, error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ref := newReference()
	p := parser{ref: ref}
	result := conn.ExecParams(ctx, "SELECT lsn, data FROM pg_logical_slot_peek_changes('"+referenceSlot+"', NULL, NULL)", nil, nil, nil, nil)
	for result.NextRow() && err == nil {
		err = p.line(string(result.Values()[0]), string(result.Values()[1]))
	}
	_, closeErr := result.Close()
	return ref, errors.Join(err, closeErr)
}

// payload describes a message of test_decoding. xid is that of the last BEGIN.
func payload(xid, data string) string {
	if strings.Contains(data, ": TRUNCATE:") {
		return xid + " " + data
	}
	return short(data)
}

// parser reads what test_decoding writes (contrib/test_decoding/test_decoding.c).
type parser struct {
	ref     *reference
	xid     string
	began   bool // the BEGIN is in ref.published: something of the transaction was published
	changes int  // of the transaction, that are published

	// The transaction's, from its row in the table ledger. That row is written last, but may not come last: a message counts as
	// written where it ends (logicalmsg_decode in src/backend/replication/logical), which is where the row begins, and of two
	// changes at one place the one that is in no subtransaction may come first.
	number string
}

func (p *parser) line(lsn, data string) (err error) {
	if p.ref.end, err = walchan.ParseLSN(lsn); err != nil {
		return err
	}
	verb, rest, _ := strings.Cut(data, " ")
	switch verb {
	case "BEGIN":
		p.xid, p.began, p.changes, p.number = rest, false, 0, ""
	case "COMMIT":
		if p.began {
			p.add(p.xid+" COMMIT "+lsn, effect{})
		}
		if p.number != "" {
			p.ref.ledger[p.number] = noted{p.changes, p.ref.end}
		}
	case "table":
		if err := p.change(rest); err != nil {
			return fmt.Errorf("reference: %w in %q", err, data)
		}
	case "message:":
		if err := p.message(rest); err != nil {
			return fmt.Errorf("reference: %w in %q", err, data)
		}
	default:
		return fmt.Errorf("reference: not understood: %q", data)
	}
	p.ref.raw = append(p.ref.raw, payload(p.xid, data))
	if verb == "COMMIT" || strings.HasPrefix(data, "message: transactional: 0") {
		p.ended()
	}
	return nil
}

// ended notes where the last transaction, or message outside of one, has ended.
func (p *parser) ended() {
	for len(p.ref.ends) < len(p.ref.published) {
		p.ref.ends = append(p.ref.ends, p.ref.end)
	}
	for len(p.ref.rawEnds) < len(p.ref.raw) {
		p.ref.rawEnds = append(p.ref.rawEnds, p.ref.end)
	}
}

func (p *parser) add(content string, e effect) {
	p.ref.published = append(p.ref.published, content)
	p.ref.effects = append(p.ref.effects, e)
}

func (p *parser) publish(content string, e effect) {
	if !p.began {
		p.began = true
		p.add(p.xid+" BEGIN", effect{})
	}
	p.changes++
	p.add(p.xid+" "+content, e)
}

// message: "transactional: 1 prefix: chaos, sz: 5 content:hello".
func (p *parser) message(s string) error {
	head, body, ok := strings.Cut(s, " content:")
	transactional, rest, ok2 := strings.Cut(strings.TrimPrefix(head, "transactional: "), " prefix: ")
	prefix, _, ok3 := strings.Cut(rest, ",")
	if !ok || !ok2 || !ok3 {
		return errors.New("message not understood")
	}
	line := fmt.Sprintf("MESSAGE %s %s", prefix, short(body))
	if transactional == "0" {
		p.add("0 "+line, effect{})
	} else {
		p.publish(line, effect{})
	}
	return nil
}

// change: "public.t: UPDATE: old-key: id[bigint]:1 new-tuple: id[bigint]:2 v[text]:'x'".
func (p *parser) change(s string) error {
	table, s, _ := strings.Cut(s, ": ")
	verb, s, ok := strings.Cut(s, ":")
	if !ok {
		return errors.New("no verb")
	}
	s = strings.TrimPrefix(s, " ")
	if verb == "TRUNCATE" {
		s = "" // its options
	}
	var b, sent strings.Builder
	b.WriteString(verb + " " + table)
	s, hasOld := strings.CutPrefix(s, "old-key: ")
	if hasOld || verb == "DELETE" {
		b.WriteString(" old")
	}
	row, old := map[string]string{}, map[string]string(nil)
	for s != "" {
		if rest, ok := strings.CutPrefix(s, "new-tuple: "); ok {
			row, old, s = map[string]string{}, row, rest
			sent.Reset()
		}
		name, value, rest, err := column(s)
		if err != nil {
			return err
		}
		if v, ok := old[name]; ok && value == unchanged {
			value = v // walchan takes it from there
		}
		field(&b, name, value)
		if value != unchanged {
			field(&sent, name, value)
		}
		row[name], s = value, rest
	}
	if table == "public."+unpublished {
		return nil
	}
	p.publish(b.String(), effectOf(verb, strings.TrimPrefix(table, "public."), old, row, sent.String()))
	if table == "public.ledger" {
		p.number = row["tx"]
	}
	return nil
}

// effectOf says what becomes of the row. That of a DELETE is in row.
func effectOf(verb, table string, old, row map[string]string, sent string) effect {
	columns := identifying[table]
	key := columns[0]
	switch verb {
	case "TRUNCATE":
		return effect{truncate: table}
	case "DELETE":
		return effect{gone: table + " " + row[key]}
	}
	e := effect{row: table + " " + row[key], record: table + sent}
	if old != nil && old[key] != row[key] {
		e.gone = table + " " + old[key]
	}
	_, e.version = versionOf(table, row)
	return e
}

// versionOf names a row, and the state it is in, by its identifying columns.
func versionOf(table string, values map[string]string) (row, version string) {
	columns := identifying[table]
	state := make([]string, len(columns))
	for i, name := range columns {
		state[i] = values[name]
	}
	return table + " " + values[columns[0]], strings.Join(state, " ")
}

// column: "id[bigint]:1 …". Text is quoted, with quotes doubled.
func column(s string) (name, value, rest string, err error) {
	name, s, ok := strings.Cut(s, "[")
	_, s, ok2 := strings.Cut(s, "]:")
	if !ok || !ok2 {
		return "", "", "", errors.New("column not understood")
	}
	if !strings.HasPrefix(s, "'") {
		value, rest, _ = strings.Cut(s, " ")
		return name, value, rest, nil
	}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '\'':
		case strings.HasPrefix(s[i:], "''"):
			i++
		default:
			return name, strings.ReplaceAll(s[1:i], "''", "'"), strings.TrimPrefix(s[i+1:], " "), nil
		}
	}
	return "", "", "", errors.New("quote not closed")
}
