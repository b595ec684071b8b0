package walchan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/feed"
)

// secret is row data. Where it is printed, it is in the row once as a text and once as bytes.
const secret = "SECRET"

func secretRelation() *Relation {
	return relation("accounts", col{"id", pgtype.Int4OID, true}, col{"note", pgtype.TextOID, false})
}

// secretMessages are messages of every kind that carries data.
func secretMessages(t *testing.T) []Message {
	rel := secretRelation()
	tx := &Tx{XID: 700, CommitLSN: 0x1000100}
	update := message(t, Update, rel, tuple('O', text("1"), text(secret)), tuple('N', text("1"), text(secret)))
	update.Tx, update.Ordinal = tx, 2
	read := message(t, Insert, rel, tuple('N', text("1"), text(secret)))
	read.Kind = Read
	return []Message{
		update,
		read,
		message(t, Delete, rel, tuple('K', text(secret), null)),
		{Kind: LogicalMessage, Tx: tx, data: seal(secret), ext: &feed.Emitted{Prefix: "outbox"}},
		{Kind: Raw, data: seal(secret)},
		{Kind: WAL, data: seal(secret), ext: &feed.Piece{Timeline: 1}},
	}
}

type exported[T any] struct{ V T }

type unexported[T any] struct {
	v    T
	next *unexported[T]
}

// around returns v, and v within other values, as it stands in users' structs and slices.
func around[T any](v T) map[string]any {
	return map[string]any{
		"itself":            v,
		"a pointer":         &v,
		"a slice":           []T{v},
		"pointers":          []*T{&v},
		"an array":          [1]T{v},
		"a map":             map[string]T{"k": v},
		"a struct":          exported[T]{v},
		"a pointer to one":  &exported[T]{v},
		"a private field":   unexported[T]{v: v, next: &unexported[T]{v: v}},
		"a pointer to that": &unexported[T]{v: v},
		"a private slice":   unexported[[]T]{v: []T{v}},
		"a private pointer": unexported[*T]{v: &v},
		"an interface":      []any{v, &v},
		"a private any":     unexported[any]{v: v},
		"anything":          exported[any]{exported[any]{v}},
	}
}

// shows says whether text has the secret, also in hexadecimal or as numbers of bytes.
func shows(text string) bool {
	text = strings.ToLower(text)
	for _, s := range []string{"secret", "534543524554", "53 45 43", "83 69 67", "0x53, 0x45"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

func TestNothingPrintsData(t *testing.T) {
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%#q", "%+q", "%d", "%x", "%X", "% x", "%#x", "%t", "%b", "%c", "%o", "%O", "%U", "%e", "%f", "%g",
		"%p", "%T", "%w", "%z", "%200v", "%-200s", "%.3v", "%200.100q", "", "%[2]v", "%*d"}
	check := func(what string, v any) {
		t.Helper()
		for _, verb := range verbs {
			if got := fmt.Sprintf(verb, v); shows(got) {
				t.Errorf("%s of %s prints %s", verb, what, got)
			}
		}
		if got := fmt.Sprint(v) + fmt.Sprintln(v); shows(got) {
			t.Errorf("%s prints %s", what, got)
		}
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).With("with", v).WithGroup("g").Info("text", "v", v, slog.Group("in", "v", v))
		if shows(b.String()) {
			t.Errorf("the TextHandler shows of %s %s", what, &b)
		}
	}
	for _, m := range secretMessages(t) {
		for where, v := range around(m) {
			check(fmt.Sprintf("%s, %s", m.Kind, where), v)
		}
		for _, r := range []Row{m.Old(), m.New()} {
			for where, v := range around(r) {
				check(fmt.Sprintf("row of %s, %s", m.Kind, where), v)
			}
		}
		check("its transaction", m.Tx)
		check("its receipt", m.Receipt())
		check("its table", m.Relation)
	}
}

// Where the JSONHandler marshals what a message or a row is in, it shows them as MarshalJSON does.
// A test of a consumer that compares rows so must not pass because their first bytes are equal.
func TestOtherRowsAreNotDeeplyEqual(t *testing.T) {
	rel := secretRelation()
	a, b := message(t, Insert, rel, tuple('N', text("1"), text("a"))), message(t, Insert, rel, tuple('N', text("1"), text("b")))
	if reflect.DeepEqual(a.New(), b.New()) || reflect.DeepEqual(a, b) {
		t.Error("rows with other values are deeply equal")
	}
	if !reflect.DeepEqual(a.New(), a.New()) {
		t.Error("a row is not deeply equal to itself")
	}
}

func TestJSONHandlerShowsDataOnlyInside(t *testing.T) {
	for _, m := range secretMessages(t) {
		row, old := m.New(), m.Old()
		var b bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&b, nil))
		log.With("with", m).Info("json", "message", m, "pointer", &m, "row", row, "pointer", &row, "old", old, slog.Group("in", "message", m, "row", row), "tx", m.Tx,
			"private", unexported[Message]{v: m})
		if shows(b.String()) {
			t.Errorf("the JSONHandler shows of %s %s", m.Kind, &b)
		}
	}
}

func TestDataIsShownOnPurpose(t *testing.T) {
	m := secretMessages(t)[0]
	marshalled, err := json.Marshal(m)
	if err != nil || !shows(string(marshalled)) {
		t.Errorf("MarshalJSON gives %s, %v", marshalled, err)
	}
	value, err := m.New().Value("note")
	if err != nil || value != secret || m.New().Text(1) != secret {
		t.Errorf("Value gives %v, %v; Text %q", value, err, m.New().Text(1))
	}
}

func TestPrinting(t *testing.T) {
	ms := secretMessages(t)
	m, row := ms[0], ms[0].New()
	one := inserted(t, relation("t", col{"c", pgtype.Int4OID, true}), text("1"))
	var none *Tx
	for _, x := range []struct {
		format string
		v      any
		want   string
	}{
		{"%v", m, "update public.accounts xid 700 at 0/1000100:2"},
		{"%d", &m, "update public.accounts xid 700 at 0/1000100:2"},
		{"%#v", []Message{m}, "[]walchan.Message{update public.accounts xid 700 at 0/1000100:2}"},
		{"%.6s|", m, "update|"},
		{"%v", Message{}, "invalid"},
		{"%v", row, "public.accounts, 2 columns"},
		{"%30x|", row, "    public.accounts, 2 columns|"},
		{"%-30v|", row, "public.accounts, 2 columns    |"},
		{"%q", row, `"public.accounts, 2 columns"`},
		{"%+v", exported[Row]{row}, "{V:public.accounts, 2 columns}"},
		{"%v", one, "public.t, 1 column"},
		{"%v", Row{}, "no row"},
		{"%v", m.Tx, "xid 700 at 0/1000100"},
		{"%v", Tx{XID: 7, GID: "g", CommitLSN: 1}, `xid 7, "g", at 0/1`},
		{"%v", none, "<nil>"},
		{"%v", m.Relation, "public.accounts"},
		{"%v", Column{Name: "Id", TypeName: "bigint"}, `"Id" bigint`},
		{"%v", Position{0x16_B374D848, 3}, "16/B374D848:3"},
		{"%v", Source{"1", "shop", "orders"}, "{1 shop orders}"},
		{"%v", Checkpoint{without: true}, "none"},
		{"%v %v", []any{CommitPrepared, StateBlocked, NotSent, FullIdentity, ReplicaIdentityFull}, "[commit_prepared blocked not_sent full full] %!v(MISSING)"},
		{"%v", Stats{State: StateIdle}.State, "idle"},
	} {
		if got := fmt.Sprintf(x.format, x.v); got != x.want {
			t.Errorf("%s prints %q, want %q", x.format, got, x.want)
		}
	}
}

func TestLogging(t *testing.T) {
	m := secretMessages(t)[0]
	p, _ := m.Position()
	args := []any{"message", m, "row", m.New(), "kind", m.Kind, "column", m.New().State(0), "identity", m.Old().Identity(), "setting", m.Relation.ReplicaIdentity,
		"state", StateUnacked, "position", p, "checkpoint", Checkpoint{without: true}}
	for _, x := range []struct {
		handler func(*bytes.Buffer, *slog.HandlerOptions) slog.Handler
		want    string
	}{
		{
			func(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(b, o) },
			`message="update public.accounts xid 700 at 0/1000100:2" row="public.accounts, 2 columns" kind=update column=text identity=full setting=default ` +
				`state=unacked position=0/1000100:2 checkpoint=none`,
		},
		{
			func(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(b, o) },
			`{"message":"update public.accounts xid 700 at 0/1000100:2","row":"public.accounts, 2 columns","kind":"update","column":"text","identity":"full",` +
				`"setting":"default","state":"unacked","position":"0/1000100:2","checkpoint":"none"}`,
		},
	} {
		var b bytes.Buffer
		only := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey {
				return slog.Attr{}
			}
			return a
		}}
		slog.New(x.handler(&b, only)).Info("", args...)
		if got := strings.TrimSpace(b.String()); got != x.want {
			t.Errorf("logged is\n%s, want\n%s", got, x.want)
		}
	}
}
