package main

import (
	"encoding/json"
	"io"
	"time"

	"github.com/walchan/walchan"
)

// line is a message as JSON. Columns that the server did not send are left out of the rows.
type line struct {
	Kind      string      `json:"kind"`
	Table     string      `json:"table,omitempty"`
	Tables    []string    `json:"tables,omitempty"`
	XID       uint32      `json:"xid,omitempty"`
	Committed time.Time   `json:"committed,omitzero"`
	Position  string      `json:"position,omitempty"` // a key: no two changes have the same
	Old       walchan.Row `json:"old,omitzero"`
	New       walchan.Row `json:"new,omitzero"`
	Unchanged []string    `json:"unchanged,omitempty"` // large values that an update left alone, and the server out
	Prefix    string      `json:"prefix,omitempty"`
	Payload   string      `json:"payload,omitempty"`
}

func newLine(m walchan.Message) line {
	l := line{Kind: m.Kind.String(), Old: m.Old(), New: m.New(), Prefix: m.Prefix(), Payload: m.Payload()}
	if m.Relation != nil {
		l.Table = m.Relation.String()
	}
	tables, _, _ := m.Truncated()
	for _, t := range tables {
		l.Tables = append(l.Tables, t.String())
	}
	if m.Tx != nil {
		l.XID, l.Committed = m.Tx.XID, m.Tx.CommitTime
	}
	if p, ok := m.Position(); ok {
		l.Position = p.String()
	}
	for i := range l.New.Len() {
		if l.New.State(i) == walchan.Unchanged {
			l.Unchanged = append(l.Unchanged, m.Relation.Columns[i].Name)
		}
	}
	return l
}

// jsonPrinter prints JSON lines.
func jsonPrinter(w io.Writer) func(walchan.Message) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(m walchan.Message) error { return enc.Encode(newLine(m)) }
}
