package pgoutput

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// wire writes a message by hand: numbers big-endian in the width of their type, strings as they are.
func wire(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case rune:
			b = append(b, byte(p))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		default:
			panic(p)
		}
	}
	return b
}

type (
	i16 = uint16
	i32 = uint32
	i64 = uint64
)

// One message of every kind, and what it means.
var messages = []struct {
	name string
	wire []byte
	want Event
}{
	{"begin", wire('B', i64(0x16B374D848), i64(7), i32(688)), Event{Type: Begin, LSN: 0x16B374D848, Time: 7, XID: 688}},
	{"commit", wire('C', '\x00', i64(1), i64(2), i64(3)), Event{Type: Commit, LSN: 1, End: 2, Time: 3}},
	{"origin", wire('O', i64(9), "elsewhere\x00"), Event{Type: Origin, LSN: 9, Name: "elsewhere"}},
	{"relation", wire('R', i32(16384), "shop\x00orders\x00", 'd', i16(2), '\x01', "id\x00", i32(23), i32(0xFFFFFFFF),
		'\x00', "name\x00", i32(1043), i32(14)),
		Event{Type: Relation, OID: 16384, Schema: "shop", Name: "orders", Ident: 'd',
			Columns: []Col{{Name: "id", Key: true, TypeOID: 23, TypeMod: -1}, {Name: "name", TypeOID: 1043, TypeMod: 14}}}},
	{"relation of pg_catalog, no columns", wire('R', i32(1), "\x00pg_class\x00", 'n', i16(0)),
		Event{Type: Relation, OID: 1, Schema: "pg_catalog", Name: "pg_class", Ident: 'n', Columns: []Col{}}},
	{"type", wire('Y', i32(16386), "shop\x00status\x00"), Event{Type: Type, OID: 16386, Schema: "shop", Name: "status"}},
	{"truncate", wire('T', i32(2), '\x03', i32(5), i32(6)), Event{Type: Truncate, Flags: 3, Tables: []uint32{5, 6}}},
	{"message", wire('M', '\x01', i64(8), "prefix\x00", i32(4), "a\x00bc"),
		Event{Type: Message, Flags: 1, LSN: 8, Name: "prefix", Content: "a\x00bc"}},
	{"empty message", wire('M', '\x00', i64(8), "\x00", i32(0)), Event{Type: Message, LSN: 8}},
	{"insert", wire('I', i32(1), 'N', i16(4), 't', i32(1), "7", 'n', 'b', i32(2), "\x00\xff", 't', i32(0)),
		Event{Type: Insert, OID: 1, N: 4}},
	{"insert, no columns", wire('I', i32(1), 'N', i16(0)), Event{Type: Insert, OID: 1}},
	{"update", wire('U', i32(1), 'N', i16(2), 't', i32(1), "7", 'u'), Event{Type: Update, OID: 1, N: 2}},
	{"update of the key", wire('U', i32(1), 'K', i16(2), 't', i32(1), "6", 'n', 'N', i16(2), 't', i32(1), "7", 'u'),
		Event{Type: Update, OID: 1, N: 2, Split: 12}},
	{"update, whole old row", wire('U', i32(1), 'O', i16(2), 't', i32(1), "6", 't', i32(6), "secret",
		'N', i16(2), 't', i32(1), "7", 'u'),
		Event{Type: Update, OID: 1, N: 2, Split: 12}},
	{"delete by key", wire('D', i32(1), 'K', i16(2), 't', i32(1), "6", 'n'), Event{Type: Delete, OID: 1, N: 2, Split: 12}},
	{"delete, whole old row", wire('D', i32(1), 'O', i16(1), 'b', i32(1), "\x06"), Event{Type: Delete, OID: 1, N: 1, Split: 8}},
	{"stream start", wire('S', i32(700), '\x01'), Event{Type: StreamStart, XID: 700, Flags: 1}},
	{"stream stop", wire('E'), Event{Type: StreamStop}},
	{"stream abort", wire('A', i32(700), i32(702)), Event{Type: StreamAbort, XID: 700, SubXID: 702}},
	{"stream commit", wire('c', i32(700), '\x00', i64(1), i64(2), i64(3)),
		Event{Type: StreamCommit, XID: 700, LSN: 1, End: 2, Time: 3}},
	{"begin prepare", wire('b', i64(1), i64(2), i64(3), i32(700), "gid\x00"),
		Event{Type: BeginPrepare, LSN: 1, End: 2, Time: 3, XID: 700, Name: "gid"}},
	{"prepare", wire('P', '\x00', i64(1), i64(2), i64(3), i32(700), "gid\x00"),
		Event{Type: Prepare, LSN: 1, End: 2, Time: 3, XID: 700, Name: "gid"}},
	{"stream prepare", wire('p', '\x00', i64(1), i64(2), i64(3), i32(700), "gid\x00"),
		Event{Type: StreamPrepare, LSN: 1, End: 2, Time: 3, XID: 700, Name: "gid"}},
	{"commit prepared", wire('K', '\x00', i64(1), i64(2), i64(3), i32(700), "gid\x00"),
		Event{Type: CommitPrepared, LSN: 1, End: 2, Time: 3, XID: 700, Name: "gid"}},
	{"rollback prepared", wire('r', '\x00', i64(1), i64(2), i64(3), i64(4), i32(700), "gid\x00"),
		Event{Type: RollbackPrepared, LSN: 1, End: 2, Time: 4, XID: 700, Name: "gid"}},
}

func TestDecode(t *testing.T) {
	var d Decoder // one for all: nothing stays from a message to the next
	for _, m := range messages {
		got, err := d.Decode(m.wire)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		ev := *got
		ev.Block = ""
		if !reflect.DeepEqual(ev, m.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", m.name, ev, m.want)
		}
	}
}

// The option, not the version, decides on the layout of StreamAbort: neither is taken for the other.
func TestDecodeParallelAbort(t *testing.T) {
	short, long := wire('A', i32(700), i32(702)), wire('A', i32(700), i32(702), i64(1), i64(2))
	d := Decoder{Parallel: true}
	ev, err := d.Decode(long)
	if want := (Event{Type: StreamAbort, XID: 700, SubXID: 702, LSN: 1, Time: 2}); err != nil || !reflect.DeepEqual(*ev, want) {
		t.Errorf("got %+v, %v", ev, err)
	}
	for n := range long {
		if _, err := d.Decode(long[:n]); err == nil {
			t.Errorf("%d bytes were enough", n)
		}
	}
	if _, err := d.Decode(short); err == nil {
		t.Error("parallel: the short form was taken")
	}
	if _, err := new(Decoder).Decode(long); err == nil {
		t.Error("not parallel: the long form was taken")
	}
}

// In a block a message is what it would be outside, but for the XID behind its type.
func TestInBlock(t *testing.T) {
	for _, m := range messages {
		b, want := m.wire, uint32(0)
		switch m.wire[0] {
		case Insert, Update, Delete, Truncate, Message, Relation, Type:
			want = 0x01020304
			b = append([]byte{m.wire[0], 1, 2, 3, 4}, m.wire[1:]...)
			for n := range 5 {
				if _, _, err := InBlock(b[:n]); err == nil {
					t.Errorf("%s: %d bytes were enough", m.name, n)
				}
			}
		case Origin, StreamStop:
		default:
			if _, _, err := InBlock(b); err == nil {
				t.Errorf("%s: was taken in a block", m.name)
			}
			continue
		}
		xid, rest, err := InBlock(b)
		if err != nil || xid != want || string(rest) != string(m.wire[1:]) {
			t.Errorf("%s: XID %d, %q, %v", m.name, xid, rest, err)
		}
	}
}

// A message that ends early or late is an error that says where, at every byte, and shows nothing of what it carries.
func TestDecodeTruncated(t *testing.T) {
	var d Decoder
	for _, m := range messages {
		for n := range len(m.wire) + 2 {
			b := append([]byte{}, m.wire[:min(n, len(m.wire))]...)
			if n == len(m.wire) {
				continue // whole
			}
			if n > len(m.wire) {
				b = append(b, 'x')
			}
			_, err := d.Decode(b)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%s, %d of %d bytes: %v", m.name, len(b), len(m.wire), err)
			}
			if e.Offset < 0 || e.Offset > len(b) || e.Size != len(b) || e.Reason == "" || len(b) > 0 && e.Type != b[0] {
				t.Errorf("%s, %d of %d bytes: %+v", m.name, len(b), len(m.wire), e)
			}
			if n > len(m.wire) && (e.Offset != len(m.wire) || e.Reason != "more bytes than expected") {
				t.Errorf("%s, a byte too many: %v", m.name, e)
			}
			if strings.Contains(e.Error(), "secret") {
				t.Errorf("%s: shows data: %v", m.name, e)
			}
		}
	}
}

func TestDecodeMalformed(t *testing.T) {
	var d Decoder
	for _, c := range []struct {
		wire []byte
		want string
	}{
		{nil, `malformed pgoutput message '\x00': truncated at byte 0 of 0`},
		{wire('Z'), `malformed pgoutput message 'Z': unknown type at byte 0 of 1`},
		{wire('I', i32(1), 'K', i16(0)), `malformed pgoutput message 'I': unexpected kind of row at byte 5 of 8`},
		{wire('D', i32(1), 'N', i16(0)), `malformed pgoutput message 'D': unexpected kind of row at byte 5 of 8`},
		{wire('I', i32(1), 'N', i16(1), 'x'), `malformed pgoutput message 'I': unknown kind of column at byte 8 of 9`},
		{wire('I', i32(1), 'N', i16(1), 't', i32(2), "7"),
			`malformed pgoutput message 'I': value is longer than the message at byte 13 of 14`},
		{wire('I', i32(1), 'N', i16(1), 't', i32(0xFFFFFFFF), "7"),
			`malformed pgoutput message 'I': value is longer than the message at byte 13 of 14`},
		{wire('U', i32(1), 'K', i16(0), 'K', i16(0)), `malformed pgoutput message 'U': new row expected at byte 8 of 11`},
		{wire('U', i32(1), 'O', i16(1), 'n', 'N', i16(2), 'n', 'n'),
			`malformed pgoutput message 'U': old and new row differ in columns at byte 14 of 14`},
		{wire('R', i32(1), "s\x00t\x00", 'd', i16(0xFFFF)), `malformed pgoutput message 'R': more entries than bytes at byte 12 of 12`},
		{wire('T', i32(0xFFFFFFFF), '\x00'), `malformed pgoutput message 'T': more entries than bytes at byte 5 of 6`},
		{wire('Y', i32(1), "no end"), `malformed pgoutput message 'Y': string without end at byte 5 of 11`},
		{wire('M', '\x00', i64(8), "\x00", i32(0xFFFFFFFF)), `malformed pgoutput message 'M': truncated at byte 15 of 15`},
	} {
		if _, err := d.Decode(c.wire); err == nil || err.Error() != c.want {
			t.Errorf("%q\n got %v\nwant %s", c.wire, err, c.want)
		}
	}
}

// column is one of a block, as the accessors have it.
type column struct {
	kind  byte
	value string
}

// rows returns the columns of the new and the old row, nil for none.
func rows(ev *Event) (fresh, old []column) {
	table := func(block string) (cols []column) {
		cols = []column{{kind: TupleKind(block, ev.N)}}
		for i := range ev.N {
			kind, value := Column(block, ev.N, i)
			cols = append(cols, column{kind, value})
		}
		return cols
	}
	if ev.Type != Delete {
		fresh = table(ev.Block[:len(ev.Block)-int(ev.Split)])
	}
	if ev.Split > 0 {
		old = table(ev.Block)
	}
	return fresh, old
}

func TestBlock(t *testing.T) {
	want := map[string][2][]column{
		"insert":             {{{kind: 'N'}, {'t', "7"}, {'n', ""}, {'b', "\x00\xff"}, {'t', ""}}, nil},
		"insert, no columns": {{{kind: 'N'}}, nil},
		"update":             {{{kind: 'N'}, {'t', "7"}, {'u', ""}}, nil},
		"update of the key":  {{{kind: 'N'}, {'t', "7"}, {'u', ""}}, {{kind: 'K'}, {'t', "6"}, {'n', ""}}},
		// what is unchanged is found in the old row
		"update, whole old row": {{{kind: 'N'}, {'t', "7"}, {'t', "secret"}}, {{kind: 'O'}, {'t', "6"}, {'t', "secret"}}},
		"delete by key":         {nil, {{kind: 'K'}, {'t', "6"}, {'n', ""}}},
		"delete, whole old row": {nil, {{kind: 'O'}, {'b', "\x06"}}},
	}
	var d Decoder
	for _, m := range messages {
		w, ok := want[m.name]
		if !ok {
			continue
		}
		ev, err := d.Decode(append([]byte{}, m.wire...))
		if err != nil {
			t.Fatal(err)
		}
		fresh, old := rows(ev)
		if !reflect.DeepEqual([2][]column{fresh, old}, w) {
			t.Errorf("%s:\n got %q %q\nwant %q", m.name, fresh, old, w)
		}
		delete(want, m.name)
	}
	for name := range want {
		t.Errorf("%s was not seen", name)
	}
}

// A block is its own: the buffer it was decoded from is used again.
func TestBlockOwnsMemory(t *testing.T) {
	b := wire('I', i32(1), 'N', i16(1), 't', i32(5), "value")
	var d Decoder
	ev, err := d.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	block, n := ev.Block, ev.N
	clear(b)
	if _, err := d.Decode(wire('I', i32(1), 'N', i16(3), 'n', 'n', 'n')); err != nil {
		t.Fatal(err)
	}
	if _, v := Column(block, n, 0); v != "value" {
		t.Errorf("got %q", v)
	}
}

func TestColumnOutOfRange(t *testing.T) {
	var d Decoder
	ev, err := d.Decode(wire('I', i32(1), 'N', i16(1), 'n'))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{-1, 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("column %d: no panic", i)
				}
			}()
			Column(ev.Block, ev.N, i)
		}()
	}
}

// FuzzDecode: any bytes are an event, all of whose columns can be read, or an error with its place.
func FuzzDecode(f *testing.F) {
	for _, m := range messages {
		f.Add(m.wire)
	}
	f.Add(wire('A', i32(700), i32(702), i64(1), i64(2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, d := range []Decoder{{}, {Parallel: true}} {
			ev, err := d.Decode(b)
			if err != nil {
				isPlaced(t, b, err)
				continue
			}
			switch ev.Type {
			case Insert, Update, Delete:
				canBeRead(t, b, ev)
			}
		}
		if _, rest, err := InBlock(b); err != nil {
			isPlaced(t, b, err)
		} else if len(rest) >= len(b) {
			t.Errorf("%d bytes are left of %d", len(rest), len(b))
		}
	})
}

func isPlaced(t *testing.T, b []byte, err error) {
	var e *Error
	if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(b) || e.Size != len(b) {
		t.Fatalf("%#v", err)
	}
}

func canBeRead(t *testing.T, b []byte, ev *Event) {
	fresh, old := rows(ev)
	size := 0
	for _, c := range append(fresh, old...) {
		if strings.IndexByte("NKOtnub", c.kind) < 0 {
			t.Errorf("kind %q", c.kind)
		}
		size += len(c.value)
	}
	if size > 2*len(b) {
		t.Errorf("%d bytes of values in a message of %d", size, len(b))
	}
}
