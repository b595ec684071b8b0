package walchan

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/walchan/walchan/internal/pgjson"
)

// MarshalJSON writes the whole message as one JSON object, with its data:
//
//	{"kind":"update","schema":"public","table":"orders","xid":689,"position":"0/16C39F0:2","time":"2026-01-02T03:04:05.6Z",
//	 "old":{"id":1},"new":{"id":2,"status":"paid"}}
//
// What a message does not have is left out. The zero Message is null.
//
//   - "kind" is Kind.String;
//   - "schema" and "table" are the table's; a Truncate has "tables", as Relation.String has them, "cascade" and "restart_identity";
//   - "xid", "gid", "origin", "redelivered" and "time" are those of Tx, where "time" is CommitTime;
//   - "position" is the Position; a message without one has its "lsn" instead;
//   - "end" is End, "timeline" Timeline, "prefix" Prefix;
//   - "payload" is the Payload, if it is valid UTF-8; otherwise it is "payload_base64", in standard base64 with padding;
//   - SnapshotBegin and SnapshotEnd have "tables", "attempt", and "among" if they are those of ReadRows;
//   - "old" and "new" are rows as Row.AppendJSON has them: columns that the server did not send are left out.
//
// The error is that of Row.AppendJSON.
func (m Message) MarshalJSON() ([]byte, error) {
	if m.Kind == 0 {
		return []byte("null"), nil
	}
	o := object{b: make([]byte, 0, 256)}
	o.text("kind", m.Kind.String())
	if m.Relation != nil {
		o.text("schema", m.Relation.Schema)
		o.text("table", m.Relation.Name)
	}
	if m.Kind == Truncate {
		_, cascade, restart := m.Truncated()
		o.texts("tables", m.truncated())
		o.flag("cascade", cascade)
		o.flag("restart_identity", restart)
	}
	if m.Tx != nil {
		o.number("xid", uint64(m.Tx.XID))
	}
	if p, ok := m.Position(); ok {
		o.text("position", p.String())
	} else {
		o.text("lsn", m.LSN.String())
	}
	if m.Tx != nil {
		o.tx(m.Tx)
	}
	if end := m.End(); end != 0 {
		o.text("end", end.String())
	}
	if t := m.Timeline(); t != 0 {
		o.number("timeline", uint64(t))
	}
	if s := m.Snapshot(); s != nil {
		o.texts("tables", namesOf(s.Tables))
		o.number("attempt", uint64(s.Attempt))
		o.flag("among", s.Among)
	}
	switch m.Kind {
	case LogicalMessage:
		o.text("prefix", m.Prefix())
		o.payload(m.Payload())
	case Raw, WAL, TimelineHistory:
		o.payload(m.Payload())
	}
	if err := o.row("old", m.Old()); err != nil {
		return nil, err
	}
	if err := o.row("new", m.New()); err != nil {
		return nil, err
	}
	return append(o.b, '}'), nil
}

// object is a JSON object that is being written.
type object struct{ b []byte }

func (o *object) key(name string) {
	o.b = append(o.b, ",{"[btoi(len(o.b) == 0)])
	o.b = append(pgjson.AppendString(o.b, name), ':')
}

func (o *object) text(name, s string) {
	o.key(name)
	o.b = pgjson.AppendString(o.b, s)
}

func (o *object) texts(name string, list []string) {
	o.key(name)
	o.b = append(o.b, '[')
	for i, s := range list {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = pgjson.AppendString(o.b, s)
	}
	o.b = append(o.b, ']')
}

func (o *object) number(name string, n uint64) {
	o.key(name)
	o.b = strconv.AppendUint(o.b, n, 10)
}

// flag writes what is true.
func (o *object) flag(name string, set bool) {
	if set {
		o.key(name)
		o.b = append(o.b, "true"...)
	}
}

// tx writes what a message has of its transaction besides the XID and the position.
func (o *object) tx(t *Tx) {
	o.text("time", t.CommitTime.Format(time.RFC3339Nano))
	if t.GID != "" {
		o.text("gid", t.GID)
	}
	if t.Origin != "" {
		o.text("origin", t.Origin)
	}
	o.flag("redelivered", t.Redelivered)
}

func (o *object) payload(p string) {
	if utf8.ValidString(p) {
		o.text("payload", p)
		return
	}
	o.text("payload_base64", base64.StdEncoding.EncodeToString([]byte(p)))
}

// row writes a row if there is one.
func (o *object) row(name string, r Row) (err error) {
	if r.rel == nil {
		return nil
	}
	o.key(name)
	o.b, err = r.AppendJSON(o.b)
	return err
}

// MarshalJSON writes XID, GID, origin and redelivered in snake case, the commit's position as text, "commit_lsn", and its time, "commit_time".
func (t Tx) MarshalJSON() ([]byte, error) {
	type fields Tx // without this method
	return json.Marshal(struct {
		fields
		CommitLSN lsnText `json:"commit_lsn"`
	}{fields(t), lsnText(t.CommitLSN)})
}

// MarshalJSON writes names in snake case, the state and positions as text, Err as its text, "error", and durations in seconds
// ("lag_seconds"). Positions and times that are not known are left out, as are Err, Attempt and Delay where there is none.
func (s Stats) MarshalJSON() ([]byte, error) {
	type fields Stats // without this method
	text := ""
	if s.Err != nil {
		text = s.Err.Error()
	}
	return json.Marshal(struct {
		fields
		Err          string  `json:"error,omitempty"`
		Delay        float64 `json:"delay_seconds,omitempty"`
		Received     lsnText `json:"received,omitempty"`
		Acknowledged lsnText `json:"acknowledged,omitempty"`
		Confirmed    lsnText `json:"confirmed,omitempty"`
		Oldest       lsnText `json:"oldest,omitempty"`
		OldestAge    float64 `json:"oldest_age_seconds"`
		Lag          float64 `json:"lag_seconds"`
	}{fields(s), text, s.Delay.Seconds(), lsnText(s.Received), lsnText(s.Acknowledged), lsnText(s.Confirmed), lsnText(s.Oldest),
		s.OldestAge.Seconds(), s.Lag.Seconds()})
}

// lsnText is an LSN that JSON has as text. LSN itself is pglogrepl's, and there a number.
type lsnText LSN

func (l lsnText) MarshalText() ([]byte, error) { return []byte(LSN(l).String()), nil }
