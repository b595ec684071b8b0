package encode

import (
	"strconv"
	"strings"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
)

// Wal2JSON writes what the output plugin wal2json writes with its option format-version 2, and its other options left at
// their defaults:
//
//	{"action":"B"}
//	{"action":"I","schema":"public","table":"t","columns":[{"name":"id","type":"integer","value":1},{"name":"v","type":"text","value":"a"}]}
//	{"action":"U","schema":"public","table":"t","columns":[…],"identity":[{"name":"id","type":"integer","value":1}]}
//	{"action":"C"}
//
// B and C come with walchan.WithTransactions. Values are as that plugin has them, and not as row_to_json: numbers and
// booleans as such, NaN and the infinities null, everything else its text as a string, bytea without "\\x".
//
// It differs where pgoutput does: a value that an update left alone is there if the replica identity is FULL, and columns that
// are generated are not. Types in the schema public are called as by the search_path that PostgreSQL has by default, and
// those of other schemas with the schema.
//
// A row of a snapshot, which that plugin does not know of, is an insert. There is no form for two-phase commit (ErrKind), nor for values in binary format (ErrBinary).
type Wal2JSON struct {
	IncludeXIDs bool // "xid", as by the option include-xids
}

// Append appends the message.
func (e Wal2JSON) Append(b []byte, m walchan.Message) ([]byte, error) {
	switch m.Kind {
	case walchan.Begin:
		return append(e.appendHead(b, 'B', m), '}'), nil
	case walchan.Commit:
		return append(e.appendHead(b, 'C', m), '}'), nil
	case walchan.SnapshotBegin, walchan.SnapshotEnd:
		return b, nil
	case walchan.Insert, walchan.Read:
		return e.appendChange(b, 'I', m)
	case walchan.Update:
		return e.appendChange(b, 'U', m)
	case walchan.Delete:
		return e.appendChange(b, 'D', m)
	case walchan.Truncate:
		tables, _, _ := m.Truncated()
		for i, rel := range tables {
			if i > 0 {
				b = append(b, '\n')
			}
			b = append(appendTable(e.appendHead(b, 'T', m), rel), '}')
		}
		return b, nil
	case walchan.LogicalMessage:
		b = strconv.AppendBool(append(e.appendHead(b, 'M', m), `,"transactional":`...), m.Tx != nil)
		b = pgjson.AppendString(append(b, `,"prefix":`...), m.Prefix())
		content, _, _ := strings.Cut(m.Payload(), "\x00") // the plugin has a C string
		return append(pgjson.AppendString(append(b, `,"content":`...), content), '}'), nil
	}
	return b, unsupported("wal2json", m)
}

func (e Wal2JSON) appendHead(b []byte, action byte, m walchan.Message) []byte {
	b = append(append(append(b, `{"action":"`...), action), '"')
	switch {
	case !e.IncludeXIDs:
	case m.Tx != nil:
		b = strconv.AppendUint(append(b, `,"xid":`...), uint64(m.Tx.XID), 10)
	default:
		b = append(b, `,"xid":null`...)
	}
	return b
}

func appendTable(b []byte, rel *walchan.Relation) []byte {
	b = pgjson.AppendString(append(b, `,"schema":`...), rel.Schema)
	return pgjson.AppendString(append(b, `,"table":`...), rel.Name)
}

func (e Wal2JSON) appendChange(b []byte, action byte, m walchan.Message) (_ []byte, err error) {
	start := len(b)
	b = appendTable(e.appendHead(b, action, m), m.Relation)
	if m.Kind != walchan.Delete {
		if b, err = appendColumns(append(b, `,"columns":[`...), m.New(), false); err != nil {
			return b[:start], err
		}
	}
	// An update that leaves the key alone comes without an old row: the new one has the key.
	identity := m.Old()
	if m.Kind == walchan.Update && !hasOld(m) && hasKey(m.Relation) {
		identity = m.New()
	}
	if identity.Identity() != walchan.NoIdentity {
		if b, err = appendColumns(append(b, `,"identity":[`...), identity, true); err != nil {
			return b[:start], err
		}
	}
	return append(b, '}'), nil
}

// appendColumns appends the columns that have a value, or those of the replica identity alone, and the closing bracket.
func appendColumns(b []byte, r walchan.Row, key bool) ([]byte, error) {
	first := true
	for i := range r.Len() {
		c := &r.Relation().Columns[i]
		state := r.State(i)
		if key && !c.Key || state == walchan.Unchanged || state == walchan.NotSent {
			continue
		}
		if state == walchan.Binary {
			return b, columnError(r, i, ErrBinary)
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = pgjson.AppendString(append(b, `{"name":`...), c.Name)
		b = appendType(append(b, `,"type":`...), c)
		b = append(b, `,"value":`...)
		if state == walchan.Null {
			b = append(b, "null"...)
		} else {
			b = appendValue(b, c.TypeOID, r.Text(i))
		}
		b = append(b, '}')
	}
	return append(b, ']'), nil
}
