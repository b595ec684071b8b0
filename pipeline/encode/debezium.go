package encode

import (
	"encoding/base64"
	"strconv"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
)

// Unavailable stands in Debezium's envelope for a large value that an update left as it was, and that the server did not send.
const Unavailable = "__debezium_unavailable_value"

// Debezium writes the envelope of Debezium's PostgreSQL connector, without its schema (as with schemas.enable=false):
//
//	{"before":null,"after":{"id":1},"source":{"version":"1","connector":"postgresql","name":"shop","ts_ms":1767322800123,"snapshot":"false","db":"shop","schema":"public","table":"t","txId":688,"lsn":23869608},"op":"c","ts_ms":1767322800150}
//
// "op" is c, u, d, t (TRUNCATE), m (logical message, whose "message" has its content in base64) and r (a row of a snapshot).
// "ts_ms" within "source" is the time of the commit, the other one that at which the server sent the message. A value that
// an update left alone and that was not sent is Unavailable.
//
// Key and OldKey have the record's key. Behind a deletion, and beside an update that changes the key, a compacted log wants a
// tombstone: see Tombstone and OldKey. What is left out of the envelope is what the connector's settings decide: values are
// those of row_to_json (timestamps in ISO 8601, numeric as numbers).
//
// Begin and Commit are nothing, and so are the marks around a snapshot. There is no form for two-phase commit: ErrKind.
type Debezium struct {
	Version  string // source.version: of what, is yours to say
	Name     string // source.name: the prefix of the topics
	Database string // source.db
}

// Append appends the envelope.
func (e Debezium) Append(b []byte, m walchan.Message) ([]byte, error) {
	switch m.Kind {
	case walchan.Begin, walchan.Commit, walchan.SnapshotBegin, walchan.SnapshotEnd:
		return b, nil
	case walchan.Read:
		return e.appendChange(b, 'r', m)
	case walchan.Insert:
		return e.appendChange(b, 'c', m)
	case walchan.Update:
		return e.appendChange(b, 'u', m)
	case walchan.Delete:
		return e.appendChange(b, 'd', m)
	case walchan.Truncate:
		tables, _, _ := m.Truncated()
		for i, rel := range tables {
			if i > 0 {
				b = append(b, '\n')
			}
			b = e.appendTail(append(b, `{"before":null,"after":null,`...), 't', m, rel.Schema, rel.Name)
			b = append(b, '}')
		}
		return b, nil
	case walchan.LogicalMessage:
		b = e.appendTail(append(b, '{'), 'm', m, "", "")
		b = pgjson.AppendString(append(b, `,"message":{"prefix":`...), m.Prefix())
		b = append(b, `,"content":"`...)
		b = base64.StdEncoding.AppendEncode(b, []byte(m.Payload()))
		return append(b, `"}}`...), nil
	}
	return b, unsupported("Debezium", m)
}

func (e Debezium) appendChange(b []byte, op byte, m walchan.Message) ([]byte, error) {
	start := len(b)
	b, err := appendEnvelopeRow(append(b, `{"before":`...), m.Old())
	if err == nil {
		b, err = appendEnvelopeRow(append(b, `,"after":`...), m.New())
	}
	if err != nil {
		return b[:start], err
	}
	return append(e.appendTail(append(b, ','), op, m, m.Relation.Schema, m.Relation.Name), '}'), nil
}

// appendEnvelopeRow appends a row with the placeholder for each value that is missing, null for no row.
func appendEnvelopeRow(b []byte, r walchan.Row) ([]byte, error) {
	if r.Identity() == walchan.NoIdentity {
		return append(b, "null"...), nil
	}
	b, err := r.AppendJSON(b)
	if err != nil {
		return b, err
	}
	b = b[:len(b)-1]
	for i := range r.Len() {
		if r.State(i) != walchan.Unchanged {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = pgjson.AppendString(b, r.Relation().Columns[i].Name)
		b = append(b, `:"`+Unavailable+`"`...)
	}
	return append(b, '}'), nil
}

// appendTail appends "source", "op" and "ts_ms".
func (e Debezium) appendTail(b []byte, op byte, m walchan.Message, schema, table string) []byte {
	at := m.SentAt()
	if m.Tx != nil {
		at = m.Tx.CommitTime
	}
	b = pgjson.AppendString(append(b, `"source":{"version":`...), e.Version)
	b = pgjson.AppendString(append(b, `,"connector":"postgresql","name":`...), e.Name)
	b = strconv.AppendInt(append(b, `,"ts_ms":`...), at.UnixMilli(), 10)
	b = strconv.AppendBool(append(b, `,"snapshot":"`...), op == 'r')
	b = pgjson.AppendString(append(b, `","db":`...), e.Database)
	b = pgjson.AppendString(append(b, `,"schema":`...), schema)
	b = pgjson.AppendString(append(b, `,"table":`...), table)
	b = append(b, `,"txId":`...)
	if m.Tx != nil {
		b = strconv.AppendUint(b, uint64(m.Tx.XID), 10)
	} else {
		b = append(b, "null"...)
	}
	b = strconv.AppendUint(append(b, `,"lsn":`...), uint64(m.LSN), 10)
	b = append(append(append(b, `},"op":"`...), op), `","ts_ms":`...)
	return strconv.AppendInt(b, m.SentAt().UnixMilli(), 10)
}
