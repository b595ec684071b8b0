package encode

import (
	"strconv"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
)

// Bottledwater writes the JSON of bottledwater-pg, as Zalando's consumers know it:
//
//	{ "command": "BEGIN", "xid": 688, "dbname": "postgres" }
//	{ "command": "INSERT", "xid": 688, "wal_pos": "0/16C38A8", "dbname": "postgres", "relname": "demo", "relnamespace": "public", "newtuple": {"id":1} }
//	{ "command": "UPDATE", "xid": 689, "wal_pos": "0/16C39F0", "dbname": "postgres", "relname": "demo", "relnamespace": "public", "key": ["id"], "newtuple": {"id":2}, "oldtuple": {"id":1} }
//	{ "command": "COMMIT", "xid": 688, "dbname": "postgres" }
//
// BEGIN and COMMIT come with walchan.WithTransactions. "key" has the names of the replica identity's columns, and is left out
// where there are none; "oldtuple" stands only where the server sends an old row, or its key. A row of a snapshot
// (walchan.WithSnapshot) is an INSERT with "xid" 0 and no "wal_pos".
//
// Beyond bottledwater, which did not know of it, a TRUNCATE has its "command" and no tuple. There is no form for logical
// messages and two-phase commit: ErrKind.
type Bottledwater struct {
	Database string // "dbname"
}

// Append appends the message.
func (e Bottledwater) Append(b []byte, m walchan.Message) ([]byte, error) {
	switch m.Kind {
	case walchan.Begin:
		return append(e.appendHead(b, "BEGIN", m), " }"...), nil
	case walchan.Commit:
		return append(e.appendHead(b, "COMMIT", m), " }"...), nil
	case walchan.SnapshotBegin, walchan.SnapshotEnd:
		return b, nil
	case walchan.Insert, walchan.Read:
		return e.appendChange(b, "INSERT", m)
	case walchan.Update:
		return e.appendChange(b, "UPDATE", m)
	case walchan.Delete:
		return e.appendChange(b, "DELETE", m)
	case walchan.Truncate:
		tables, _, _ := m.Truncated()
		for i, rel := range tables {
			if i > 0 {
				b = append(b, '\n')
			}
			b = append(appendRelation(e.appendHead(b, "TRUNCATE", m), rel), " }"...)
		}
		return b, nil
	}
	return b, unsupported("bottledwater", m)
}

func (e Bottledwater) appendHead(b []byte, command string, m walchan.Message) []byte {
	b = append(append(append(b, `{ "command": "`...), command...), `", "xid": `...)
	xid := uint32(0) // a row of the snapshot
	if m.Tx != nil {
		xid = m.Tx.XID
	}
	b = strconv.AppendUint(b, uint64(xid), 10)
	if m.Tx != nil && m.Kind != walchan.Begin && m.Kind != walchan.Commit {
		b = append(appendLSN(append(b, `, "wal_pos": "`...), m.LSN), '"')
	}
	return pgjson.AppendString(append(b, `, "dbname": `...), e.Database)
}

func appendRelation(b []byte, rel *walchan.Relation) []byte {
	b = pgjson.AppendString(append(b, `, "relname": `...), rel.Name)
	b = pgjson.AppendString(append(b, `, "relnamespace": `...), rel.Schema)
	if !hasKey(rel) {
		return b
	}
	separator := `, "key": [`
	for i := range rel.Columns {
		if rel.Columns[i].Key {
			b = pgjson.AppendString(append(b, separator...), rel.Columns[i].Name)
			separator = ", "
		}
	}
	return append(b, ']')
}

func (e Bottledwater) appendChange(b []byte, command string, m walchan.Message) ([]byte, error) {
	start := len(b)
	b = appendRelation(e.appendHead(b, command, m), m.Relation)
	b, err := appendTuple(b, `, "newtuple": `, m.New())
	if err == nil {
		b, err = appendTuple(b, `, "oldtuple": `, m.Old())
	}
	if err != nil {
		return b[:start], err
	}
	return append(b, " }"...), nil
}

// appendTuple appends a row, and nothing if there is none.
func appendTuple(b []byte, name string, r walchan.Row) ([]byte, error) {
	if r.Identity() == walchan.NoIdentity {
		return b, nil
	}
	return r.AppendJSON(append(b, name...))
}

// appendLSN appends a position in PostgreSQL's notation.
func appendLSN(b []byte, lsn walchan.LSN) []byte {
	return appendHex(append(appendHex(b, uint32(lsn>>32)), '/'), uint32(lsn))
}

func appendHex(b []byte, n uint32) []byte {
	start := len(b)
	b = strconv.AppendUint(b, uint64(n), 16)
	for i, c := range b[start:] {
		if c >= 'a' {
			b[start+i] = c - 'a' + 'A'
		}
	}
	return b
}

// Table is what bottledwater tells of a table: its object of the table's schema.
type Table struct {
	Schema, Name string
	Key          []string // columns of the replica identity; none: "key" is left out
	Attributes   []Attribute
}

// Attribute is a column of a Table.
type Attribute struct {
	Name    string
	Type    string // with its modifier, as format_type has it: "numeric(10,2)"
	NotNull bool
	Default string // the expression, as pg_get_expr has it; "": there is none
}

// AppendJSON appends the object, as one line:
//
//	{ "relname": "demo", "relnamespace": "public", "key": ["id"], "attributes": [{ "name": "id", "type": "integer", "notnull": true }] }
func (t Table) AppendJSON(b []byte) []byte {
	b = pgjson.AppendString(append(b, `{ "relname": `...), t.Name)
	b = pgjson.AppendString(append(b, `, "relnamespace": `...), t.Schema)
	for i, name := range t.Key {
		b = pgjson.AppendString(append(b, [...]string{`, "key": [`, ", "}[min(i, 1)]...), name)
	}
	if len(t.Key) > 0 {
		b = append(b, ']')
	}
	b = append(b, `, "attributes": [`...)
	for i, a := range t.Attributes {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = pgjson.AppendString(append(b, `{ "name": `...), a.Name)
		b = pgjson.AppendString(append(b, `, "type": `...), a.Type)
		b = strconv.AppendBool(append(b, `, "notnull": `...), a.NotNull)
		if a.Default != "" {
			b = pgjson.AppendString(append(b, `, "default": `...), a.Default)
		}
		b = append(b, " }"...)
	}
	return append(b, "] }"...)
}
