package walchan

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

// The tables of these tests: a key, a TOASTed text, a number.
func articles() *Relation {
	return relation("articles", col{"id", pgtype.Int4OID, true}, col{"body", pgtype.TextOID, false},
		col{"price", pgtype.NumericOID, false})
}

func TestZeroRow(t *testing.T) {
	var r Row
	if r.Relation() != nil || r.Len() != 0 || r.Identity() != NoIdentity {
		t.Error("a zero row has something")
	}
	if m, err := r.Map(); m != nil || err != nil {
		t.Errorf("Map: %v, %v", m, err)
	}
	if _, err := r.Value("id"); err == nil {
		t.Error("Value: no error")
	}
	if err := r.Scan(&struct{}{}); err == nil {
		t.Error("Scan: no error")
	}
	if got := appendJSON(t, r); string(got) != "null" {
		t.Errorf("AppendJSON: %s", got)
	}
}

// What an UPDATE did not send is not NULL, but an error, or left out.
func TestUnchanged(t *testing.T) {
	m := message(t, Update, articles(), tuple('N', text("1"), unchanged, null))
	r := m.New()
	if s := []State{r.State(0), r.State(1), r.State(2)}; !reflect.DeepEqual(s, []State{Text, Unchanged, Null}) {
		t.Errorf("states %v", s)
	}
	if m.Old().Identity() != NoIdentity || r.Identity() != FullIdentity {
		t.Errorf("identities %d, %d", m.Old().Identity(), r.Identity())
	}
	if got := appendJSON(t, r); string(got) != `{"id":1,"price":null}` {
		t.Errorf("JSON %s", got)
	}
	if got, err := r.Map(); err != nil || !reflect.DeepEqual(got, map[string]any{"id": int32(1), "price": nil}) {
		t.Errorf("Map %v, %v", got, err)
	}
	_, err := r.Value("body")
	var ce *ColumnError
	if !errors.Is(err, ErrUnchanged) || !errors.As(err, &ce) ||
		ce.Column != "body" || ce.Type != "text" || ce.Table != "public.articles" {
		t.Errorf("Value: %v", err)
	}

	var all struct {
		ID   int
		Body *string
	}
	if err := r.Scan(&all); !errors.Is(err, ErrUnchanged) ||
		!strings.HasPrefix(err.Error(), "column body of public.articles (text): ") {
		t.Errorf("Scan: %v", err)
	}
	kept := struct {
		ID   int
		Body string `db:"body,optional"`
	}{Body: "as before"}
	if err := r.Scan(&kept); err != nil || kept.ID != 1 || kept.Body != "as before" {
		t.Errorf("Scan: %+v, %v", kept, err)
	}
}

// With the whole old row an unchanged value is filled in from there.
func TestUnchangedWithFullIdentity(t *testing.T) {
	m := message(t, Update, articles(), tuple('O', text("1"), text("long"), text("7")), tuple('N', text("2"), unchanged, text("8")))
	if got := appendJSON(t, m.New()); string(got) != `{"id":2,"body":"long","price":8}` {
		t.Errorf("new %s", got)
	}
	if got := appendJSON(t, m.Old()); string(got) != `{"id":1,"body":"long","price":7}` || m.Old().Identity() != FullIdentity {
		t.Errorf("old %s", got)
	}
}

// Of a key the other columns are on the wire as null, which they are not.
func TestKeyOnly(t *testing.T) {
	r := message(t, Delete, articles(), tuple('K', text("1"), null, null)).Old()
	if r.Identity() != KeyIdentity || r.State(1) != NotSent || r.Text(1) != "" {
		t.Errorf("identity %d, state %s", r.Identity(), r.State(1))
	}
	if got := appendJSON(t, r); string(got) != `{"id":1}` {
		t.Errorf("JSON %s", got)
	}
	if got, err := r.Map(); err != nil || !reflect.DeepEqual(got, map[string]any{"id": int32(1)}) {
		t.Errorf("Map %v, %v", got, err)
	}
	if _, err := r.Value("price"); !errors.Is(err, ErrNotSent) {
		t.Errorf("Value: %v", err)
	}
	var key struct{ ID int }
	if err := r.Scan(&key); err != nil || key.ID != 1 {
		t.Errorf("Scan: %+v, %v", key, err)
	}
	var all struct {
		ID    int
		Price *float64
	}
	if err := r.Scan(&all); !errors.Is(err, ErrNotSent) {
		t.Errorf("Scan: %v", err)
	}
}

func TestNoSuchColumn(t *testing.T) {
	r := inserted(t, articles(), text("1"), null, null)
	if _, err := r.Value("Body"); err == nil || err.Error() != `public.articles has no column "Body"` {
		t.Errorf("got %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r.ValueAt(3)
}

// Errors are written to logs, where row data has no business.
func TestErrorsShowNoData(t *testing.T) {
	types := []uint32{pgtype.Int2OID, pgtype.Int4OID, pgtype.BoolOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.DateOID,
		pgtype.NumericOID, pgtype.UUIDOID, pgtype.JSONOID, pgtype.ByteaOID, pgtype.InetOID, pgtype.Int4ArrayOID, pgtype.Int4rangeOID,
		pgtype.PointOID, pgtype.IntervalOID, pgtype.Float8OID, pgtype.TextOID}
	for _, oid := range types {
		rel := relation("t", col{name: "v", oid: oid})
		for _, v := range []boxed{text("secret"), bin("secret"), text("99999999999999999999"), text("{secret}"),
			text("[secret,secret]")} {
			r := inserted(t, rel, v)
			_, valueErr := r.Value("v")
			_, jsonErr := r.AppendJSON(nil)
			errs := []error{valueErr, jsonErr, r.Scan(&struct{ V int8 }{}), r.Scan(&struct{ V struct{ A int } }{}),
				r.Scan(&struct{ V []bool }{}), r.Scan(&struct{ V failing }{})}
			for _, err := range errs {
				if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "9999")) {
					t.Errorf("%s: %v", rel.Columns[0].TypeName, err)
				}
			}
		}
	}
}

var errFailing = errors.New("secret")

type failing struct{ _ int }

func (*failing) Scan(any) error { return errFailing }
