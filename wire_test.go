package walchan

import (
	"encoding/binary"
	"testing"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/value"
)

// The helpers here write pgoutput's messages by hand.

type col struct {
	name string
	oid  uint32
	key  bool
}

// boxed is a column's value on the wire: its kind and, of 't' and 'b', what follows.
type boxed struct {
	kind byte
	data string
}

func text(s string) boxed { return boxed{'t', s} }
func bin(s string) boxed  { return boxed{'b', s} }

var (
	null      = boxed{'n', ""}
	unchanged = boxed{'u', ""}
)

func tuple(kind byte, values ...boxed) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(values)))
	for _, v := range values {
		b = append(b, v.kind)
		if v.kind == 't' || v.kind == 'b' {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v.data))), v.data...)
		}
	}
	return b
}

func relation(name string, cols ...col) *Relation {
	rel := &Relation{OID: 1, Schema: "public", Name: name, ReplicaIdentity: ReplicaIdentityDefault}
	for _, c := range cols {
		rel.Columns = append(rel.Columns, Column{Name: c.name, Key: c.key, TypeOID: c.oid, TypeMod: -1})
	}
	rel.bind(value.NewTypes())
	return rel
}

// message decodes an Insert, Update or Delete with the given tuples.
func message(t testing.TB, kind Kind, rel *Relation, tuples ...[]byte) Message {
	t.Helper()
	b := binary.BigEndian.AppendUint32([]byte{wireTypes[kind]}, rel.OID)
	for _, tu := range tuples {
		b = append(b, tu...)
	}
	var d pgoutput.Decoder
	ev, err := d.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return Message{Kind: kind, Relation: rel, data: seal(ev.Block), split: ev.Split}
}

var wireTypes = map[Kind]byte{Insert: pgoutput.Insert, Update: pgoutput.Update, Delete: pgoutput.Delete}

func inserted(t testing.TB, rel *Relation, values ...boxed) Row {
	t.Helper()
	return message(t, Insert, rel, tuple('N', values...)).New()
}
