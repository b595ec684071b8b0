package main

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/walchan/walchan"
)

// What is compared is text: each message is a line that says everything that matters of it, and that no other message has.
// The same line is made from a walchan.Message and from what test_decoding writes of the change (reference.go), by code that
// has nothing in common but this file's last two functions.

// content describes a message. The rows that the writers write have no two changes alike; a TRUNCATE, and whatever else
// could be like another, is told apart by the transaction's ID.
func content(m walchan.Message) string {
	var b strings.Builder
	xid := uint32(0)
	if m.Tx != nil {
		xid = m.Tx.XID
	}
	fmt.Fprintf(&b, "%d ", xid)
	switch m.Kind {
	case walchan.Begin:
		b.WriteString("BEGIN")
	case walchan.Commit:
		fmt.Fprintf(&b, "COMMIT %s", m.End())
	case walchan.Read:
		change(&b, "READ", m.Relation)
		newRow(&b, m.New())
	case walchan.Insert:
		change(&b, "INSERT", m.Relation)
		newRow(&b, m.New())
	case walchan.Update:
		change(&b, "UPDATE", m.Relation)
		oldRow(&b, m.Old())
		newRow(&b, m.New())
	case walchan.Delete:
		change(&b, "DELETE", m.Relation)
		oldRow(&b, m.Old())
	case walchan.Truncate:
		tables, _, _ := m.Truncated()
		for _, t := range tables {
			change(&b, "TRUNCATE", t)
		}
	case walchan.LogicalMessage:
		fmt.Fprintf(&b, "MESSAGE %s %s", m.Prefix(), short(m.Payload()))
	default:
		fmt.Fprintf(&b, "unexpected %v", m)
	}
	return b.String()
}

func change(b *strings.Builder, what string, r *walchan.Relation) {
	fmt.Fprintf(b, "%s %s.%s", what, r.Schema, r.Name)
}

func newRow(b *strings.Builder, r walchan.Row) {
	for i := range r.Len() {
		switch r.State(i) {
		case walchan.Null:
			field(b, r.Relation().Columns[i].Name, "null")
		case walchan.Unchanged:
			field(b, r.Relation().Columns[i].Name, unchanged)
		default:
			field(b, r.Relation().Columns[i].Name, r.Text(i))
		}
	}
}

// oldRow leaves out NULLs, as test_decoding does.
func oldRow(b *strings.Builder, r walchan.Row) {
	if r.Len() > 0 {
		b.WriteString(" old")
	}
	for i := range r.Len() {
		if r.State(i) == walchan.Text {
			field(b, r.Relation().Columns[i].Name, r.Text(i))
		}
	}
}

const unchanged = "unchanged-toast-datum" // as test_decoding says it

func field(b *strings.Builder, name, value string) {
	b.WriteByte(' ')
	b.WriteString(name)
	b.WriteByte('=')
	b.WriteString(short(value))
}

// short keeps lines short: a long text is its length and a hash.
func short(s string) string {
	if len(s) <= 80 {
		return s
	}
	h := fnv.New64a()
	h.Write([]byte(s))
	return fmt.Sprintf("%.8s…%d:%x", s, len(s), h.Sum64())
}
