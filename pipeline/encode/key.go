package encode

import (
	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
)

// Key appends the key of the row that the message is about, as a JSON object of the replica identity's columns: of the new row,
// or of the old one for a Delete. Of a LogicalMessage it is {"prefix":…}. It appends nothing if there is no key: for a table
// without a replica identity, and for the other kinds of messages.
//
// The replica identity FULL makes the whole row the key; the server then does not say which columns are the primary key's.
func Key(b []byte, m walchan.Message) ([]byte, error) {
	switch m.Kind {
	case walchan.Insert, walchan.Update, walchan.Read:
		return appendKey(b, m.New())
	case walchan.Delete:
		return appendKey(b, m.Old())
	case walchan.LogicalMessage:
		return append(pgjson.AppendString(append(b, `{"prefix":`...), m.Prefix()), '}'), nil
	}
	return b, nil
}

// OldKey appends the key that an Update has changed, as it was, and nothing if there is none. Where rows are kept by their key, as
// in a log that is compacted, the row of that key is gone: besides the new row a tombstone for the old key is to be written.
func OldKey(b []byte, m walchan.Message) ([]byte, error) {
	if m.Kind != walchan.Update || !keyChanged(m) {
		return b, nil
	}
	return appendKey(b, m.Old())
}

// keyChanged compares the columns of the replica identity: with FULL the server sends old rows whose key is the same.
func keyChanged(m walchan.Message) bool {
	before, after := m.Old(), m.New()
	for i := range before.Len() {
		if m.Relation.Columns[i].Key && (before.State(i) != after.State(i) || before.Text(i) != after.Text(i)) {
			return true
		}
	}
	return false
}

// Tombstone says whether the row is gone: behind the message a null is to be written for its Key, where a log is compacted.
func Tombstone(m walchan.Message) bool { return m.Kind == walchan.Delete && hasOld(m) }

func appendKey(b []byte, r walchan.Row) (_ []byte, err error) {
	rel, start := r.Relation(), len(b)
	if rel == nil || !hasKey(rel) {
		return b, nil
	}
	b = append(b, '{')
	for i := range rel.Columns {
		if !rel.Columns[i].Key {
			continue
		}
		if len(b) > start+1 {
			b = append(b, ',')
		}
		b = append(pgjson.AppendString(b, rel.Columns[i].Name), ':')
		if b, err = r.AppendJSONAt(b, i); err != nil {
			return b[:start], err
		}
	}
	return append(b, '}'), nil
}
