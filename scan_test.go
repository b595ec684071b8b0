package walchan

import (
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

type base struct {
	ID      int32
	private int
}

type Times struct {
	CreatedAt time.Time
}

// Fields find their columns as pgx's RowToStructByName has it.
func TestScanNames(t *testing.T) {
	rel := relation("t", col{name: "id", oid: pgtype.Int4OID}, col{name: "created_at", oid: pgtype.TimestamptzOID},
		col{name: "Name", oid: pgtype.TextOID}, col{name: "name", oid: pgtype.TextOID}, col{name: "new_column", oid: 99999},
		col{name: "user_id", oid: pgtype.Int8OID}, col{name: "", oid: pgtype.TextOID})
	r := inserted(t, rel, text("7"), text("2026-01-02 03:04:05+00"), text("upper"), text("lower"), text("x"), text("8"), text(""))
	type row struct {
		base
		Times
		Upper   string `db:"Name"`
		Lower   string `db:"name"`
		Any     string `db:"NAME"` // the first but for case
		UserID  int
		Ignored chan int `db:"-"`
		hidden  chan int
		Missing func() `db:"missing,optional"`
		Again   uint64 `db:"user_id,other,optional"`
	}
	var got row
	if err := r.Scan(&got); err != nil {
		t.Fatal(err)
	}
	got.CreatedAt = got.CreatedAt.UTC()
	want := row{base: base{ID: 7}, Times: Times{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, Upper: "upper",
		Lower: "lower", Any: "upper", UserID: 8, Again: 8}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	_, _ = got.private, got.hidden
}

func TestScanErrors(t *testing.T) {
	rel := relation("t", col{name: "id", oid: pgtype.Int4OID}, col{name: "name", oid: pgtype.TextOID},
		col{name: "doc", oid: pgtype.JSONBOID})
	r := inserted(t, rel, text("70000"), null, null)
	for _, c := range []struct {
		dst  any
		want string
	}{
		{struct{}{}, "cannot scan a row into struct {}, only into a non-nil pointer to a struct"},
		{(*base)(nil), "cannot scan a row into *walchan.base, only into a non-nil pointer to a struct"},
		{nil, "cannot scan a row into <nil>, only into a non-nil pointer to a struct"},
		{new(int), "cannot scan a row into *int, only into a non-nil pointer to a struct"},
		{new(Times), "public.t has no column for field CreatedAt of walchan.Times"},
		{new(struct{ Name string }), "column name of public.t (text): NULL does not go into string"},
		{new(struct{ Doc string }), "column doc of public.t (jsonb): NULL does not go into string"},
		{new(struct{ Name int }), "column name of public.t (text): NULL does not go into int"},
		{new(struct{ Doc struct{ A int } }), "column doc of public.t (jsonb): NULL does not go into struct { A int }"},
		{new(struct{ ID int16 }), "column id of public.t (integer): the value does not go into int16"},
		{new(struct{ ID time.Time }), "column id of public.t (integer): the value does not go into time.Time"},
	} {
		if err := r.Scan(c.dst); err == nil || err.Error() != c.want {
			t.Errorf("%T: got  %v\nwant %s", c.dst, err, c.want)
		}
	}
}

func TestScanNull(t *testing.T) {
	var cols []col
	var values []boxed
	for name, oid := range map[string]uint32{"text": pgtype.TextOID, "bytes": pgtype.ByteaOID, "list": pgtype.Int4ArrayOID,
		"doc": pgtype.JSONBOID, "any": pgtype.Int8OID, "num": pgtype.NumericOID, "name": pgtype.TextOID, "pg": pgtype.TextOID} {
		cols, values = append(cols, col{name: name, oid: oid}), append(values, null)
	}
	got := struct {
		Text  *string
		Bytes []byte
		List  []int
		Doc   map[string]any
		Any   any
		Num   pgtype.Numeric
		Name  nullable
		Pg    pgtype.Text
	}{new(string), []byte{1}, []int{1}, map[string]any{}, 1, pgtype.Numeric{Valid: true}, "x", pgtype.Text{String: "x", Valid: true}}
	if err := inserted(t, relation("t", cols...), values...).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if got.Text != nil || got.Bytes != nil || got.List != nil || got.Doc != nil || got.Any != nil || got.Num.Valid ||
		got.Name != "was null" || got.Pg.Valid {
		t.Errorf("got %+v", got)
	}
}

// nullable is a string, but knows about NULL.
type nullable string

func (n *nullable) Scan(src any) error {
	if src == nil {
		*n = "was null"
	}
	return nil
}

// An empty value is not NULL, though both have no bytes.
func TestScanEmpty(t *testing.T) {
	rel := relation("t", col{name: "s", oid: pgtype.TextOID}, col{name: "b", oid: pgtype.ByteaOID}, col{name: "u", oid: 99999})
	for _, r := range []Row{inserted(t, rel, text(""), text(`\x`), text("")), inserted(t, rel, bin(""), bin(""), bin(""))} {
		var got struct {
			S *string
			B []byte
			U []byte
		}
		if err := r.Scan(&got); err != nil || got.S == nil || *got.S != "" || got.B == nil || got.U == nil {
			t.Errorf("got %#v, %v", got, err)
		}
		if v, err := r.Value("b"); err != nil || !reflect.DeepEqual(v, []byte{}) {
			t.Errorf("got %#v, %v", v, err)
		}
	}
}

// What is scanned can be written to without a change to the row.
func TestScanOwnsMemory(t *testing.T) {
	rel := relation("t", col{name: "v", oid: pgtype.TextOID})
	for _, v := range []boxed{text("original"), bin("original")} {
		r := inserted(t, rel, v)
		var got struct {
			Bytes   []byte                `db:"v"`
			Driver  pgtype.DriverBytes    `db:"v"`
			Undone  pgtype.UndecodedBytes `db:"v"`
			Scanner keeper                `db:"v"`
		}
		if err := r.Scan(&got); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{got.Bytes, got.Driver, got.Undone, got.Scanner} {
			if string(b) != "original" {
				t.Errorf("got %q", b)
			}
			clear(b)
		}
		if r.Text(0) != "original" {
			t.Errorf("the row has become %q", r.Text(0))
		}
	}
}

// keeper keeps what it is given, which sql.Scanner forbids and people do.
type keeper []byte

func (k *keeper) Scan(src any) error {
	switch src := src.(type) {
	case []byte:
		*k = src
	case string:
		*k = []byte(src)
	}
	return nil
}

// The first scans of a relation, at once, into a type that pgtype has to find out about. For the race detector.
func TestScanFirstAtOnce(t *testing.T) {
	for range 100 {
		r := inserted(t, relation("t", col{name: "v", oid: 99999}), text("7"))
		start := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				<-start
				var got struct{ V int }
				if err := r.Scan(&got); err != nil || got.V != 7 {
					t.Errorf("got %v, %v", got, err)
				}
			})
		}
		close(start)
		wg.Wait()
	}
}

// A relation that no stream has made (Relation is a struct that anybody can write) has the built-in types.
func TestHandMadeRelation(t *testing.T) {
	rel := relation("t", col{name: "id", oid: pgtype.Int4OID})
	rel.conv = nil
	r := inserted(t, rel, text("7"))
	var got struct{ ID int }
	if err := r.Scan(&got); err != nil || got.ID != 7 {
		t.Errorf("got %v, %v", got, err)
	}
	if v, err := r.Value("id"); v != int32(7) || err != nil {
		t.Errorf("got %v, %v", v, err)
	}
	if b := appendJSON(t, r); string(b) != `{"id":7}` {
		t.Errorf("got %s", b)
	}
}

// A scanned error says the value's column, not the value, and keeps its cause.
func TestColumnErrorCause(t *testing.T) {
	rel := relation("t", col{name: "v", oid: pgtype.TextOID})
	err := inserted(t, rel, text("x")).Scan(&struct{ V failing }{})
	var ce *ColumnError
	if !errors.As(err, &ce) || ce.Err != errFailing || !strings.HasSuffix(ce.Reason, "walchan.failing") {
		t.Errorf("got %v", err)
	}
}
