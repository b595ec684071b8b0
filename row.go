package walchan

import (
	"github.com/walchan/walchan/internal/pgoutput"
)

// State is what is known of a column's value. Its text is "not_sent", "null", "unchanged", "text" or "binary".
type State uint8

// The states of a column.
const (
	NotSent   State = iota // the server did not send it: not a column of the replica identity, or no such column
	Null                   // SQL NULL
	Unchanged              // a TOASTed value that the UPDATE did not change, and that the server therefore left out
	Text                   // a value in text format
	Binary                 // a value in binary format
)

// Identity says how much of an old row there is. Its text is "none", "key" or "full".
type Identity uint8

// How much of an old row there is.
const (
	NoIdentity   Identity = iota // nothing
	KeyIdentity                  // the columns of the replica identity; the others are NotSent
	FullIdentity                 // the whole row (REPLICA IDENTITY FULL, or a new row)
)

// Row is one row of a message. It is a view into it: copying is cheap, keeping one keeps the message's block. The zero
// Row is no row: it has no columns.
type Row struct {
	rel  *Relation
	data sealed
}

// Relation returns the table whose row it is; nil for the zero Row.
func (r Row) Relation() *Relation { return r.rel }

// Len returns the number of columns; 0 for the zero Row.
func (r Row) Len() int {
	if r.rel == nil {
		return 0
	}
	return len(r.rel.Columns)
}

// Identity says how much of the row there is.
func (r Row) Identity() Identity {
	switch {
	case r.rel == nil:
		return NoIdentity
	case pgoutput.TupleKind(r.data.text(), len(r.rel.Columns)) == 'K':
		return KeyIdentity
	}
	return FullIdentity
}

// State returns what is known of column i. It panics if there is no such column.
func (r Row) State(i int) State {
	s, _ := r.column(i)
	return s
}

// Text returns the value of column i as the server sent it, without a copy: text, or for State Binary the type's binary
// representation. It is "" where there is no value. It panics if there is no such column.
func (r Row) Text(i int) string {
	_, v := r.column(i)
	return v
}

func (r Row) column(i int) (State, string) {
	n := len(r.rel.Columns)
	kind, v := pgoutput.Column(r.data.text(), n, i)
	switch kind {
	case 't':
		return Text, v
	case 'b':
		return Binary, v
	case 'u':
		return Unchanged, ""
	}
	// Of a key the server sends all other columns as null, which they are not (pgoutput.c, logicalrep_write_delete).
	if !r.rel.Columns[i].Key && pgoutput.TupleKind(r.data.text(), n) == 'K' {
		return NotSent, ""
	}
	return Null, ""
}
