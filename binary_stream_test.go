package walchan

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/pgtest"
)

// The values of a stream in binary format are those of one in text format. A type without a binary format (aclitem has no send
// function) comes as text among the others.
func TestBinaryStreamHasTheSameValues(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	ddl, insert := everything()
	db.Exec(t, customTypes, ddl, "ALTER TABLE everything ADD COLUMN acl aclitem", "CREATE PUBLICATION p FOR TABLE everything")
	opts := []Option{WithPublication("p"), WithCreateSlot()}
	inText := subscribe(t, db, append(opts, WithSlot(db.Name+"_text")))
	inBinary := subscribe(t, db, append(opts, WithSlot(db.Name+"_binary"), WithBinary(), WithStreaming()))
	db.Exec(t, insert, "UPDATE everything SET acl = 'postgres=r/postgres' WHERE id = 0", "DELETE FROM everything WHERE id = 0")
	n := 0
	row := func(m Message) Row {
		if m.Kind == Delete {
			return m.Old()
		}
		return m.New()
	}
	for done := false; !done; {
		a, b := next(t, inText), next(t, inBinary)
		if a.Kind != b.Kind || a.LSN != b.LSN || a.New().Len() != b.New().Len() || a.Old().Len() != b.Old().Len() {
			t.Fatalf("%v in text, %v in binary", a, b)
		}
		n += compareRows(t, a.New(), b.New()) + compareRows(t, a.Old(), b.Old())
		compareColumns(t, row(b), appendJSON(t, row(a)), appendJSON(t, row(b)))
		done = a.Kind == Delete
	}
	if n < 3*len(allTypes) {
		t.Errorf("only %d values were compared", n)
	}
}

func compareRows(t *testing.T, text, binary Row) (n int) {
	t.Helper()
	for i := range text.Len() {
		want := Binary
		switch {
		case text.State(i) != Text:
			want = text.State(i)
		case text.Relation().Columns[i].Name == "acl":
			want = Text
		}
		if got := binary.State(i); got != want {
			t.Errorf("%s is %v, want %v", text.Relation().Columns[i].Name, got, want)
		}
		if i > 0 && i <= len(allTypes) && allTypes[i-1].opaque {
			continue
		}
		n++
		a, errA := text.ValueAt(i)
		b, errB := binary.ValueAt(i)
		if errA != nil || errB != nil || !same(a, b) && !sameNumber(a, b) {
			t.Errorf("%s: in text %T %v (%v), in binary %T %v (%v)", text.Relation().Columns[i].Name, a, a, errA, b, b, errB)
		}
	}
	return n
}

// sameNumber says whether both are zero, whose scale pgtype does not read from the binary format, or print alike, as NaN does
// within a composite value.
func sameNumber(a, b any) bool {
	m, _ := a.(pgtype.Numeric)
	n, ok := b.(pgtype.Numeric)
	if ok && m.Int != nil && n.Int != nil {
		return m.Int.Sign() == 0 && n.Int.Sign() == 0
	}
	return fmt.Sprintf("%T %v", a, a) == fmt.Sprintf("%T %v", b, b)
}

func subscribe(t *testing.T, db pgtest.DB, opts []Option) *Stream {
	t.Helper()
	s, err := Subscribe(t.Context(), db.DSN(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func next(t *testing.T, s *Stream) Message {
	t.Helper()
	select {
	case m, ok := <-s.C():
		if !ok {
			t.Fatal(s.Err())
		}
		s.Ack(m)
		return m
	case <-time.After(time.Minute):
		t.Fatalf("nothing came: %+v", s.Stats())
	}
	panic("not reached")
}
