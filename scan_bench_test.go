package walchan

import (
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/pgtest"
)

// order is an ordinary row of ten columns.
type order struct {
	ID       int64
	Customer int64
	State    string
	Total    pgtype.Numeric
	Quantity int32
	Note     *string
	Paid     bool
	Weight   float64
	Created  time.Time
	Updated  *time.Time
}

const orderSelect = `SELECT 4711::bigint AS id, 42::bigint AS customer, 'in work'::text AS state, 1234.50::numeric AS total,
	3::integer AS quantity, 'please ring twice'::text AS note, true AS paid, 1.25::double precision AS weight,
	'2026-01-02 03:04:05.123456+00'::timestamptz AS created, '2026-01-02 03:04:05'::timestamp AS updated`

// orderRows returns the same row twice: as pgx has it, from a real server, and as a message has it.
func orderRows(tb testing.TB) (pgx.Rows, Row) {
	conn, err := pgx.Connect(tb.Context(), pgtest.Shared(tb).DSN("timezone=UTC"))
	if err != nil {
		tb.Fatal(err)
	}
	rows, err := conn.Query(tb.Context(), orderSelect, pgx.QueryResultFormats{pgtype.TextFormatCode})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { rows.Close(); conn.Close(tb.Context()) })
	if !rows.Next() {
		tb.Fatal(rows.Err())
	}
	var cols []col
	var values []boxed
	for i, f := range rows.FieldDescriptions() {
		cols = append(cols, col{name: f.Name, oid: f.DataTypeOID})
		values = append(values, text(string(rows.RawValues()[i])))
	}
	return rows, inserted(tb, relation("orders", cols...), values...)
}

func TestScanAsPgx(t *testing.T) {
	rows, row := orderRows(t)
	want, err := pgx.RowToStructByName[order](rows)
	if err != nil {
		t.Fatal(err)
	}
	var got order
	if err := row.Scan(&got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func BenchmarkScan(b *testing.B) {
	rows, row := orderRows(b)
	b.Run("pgx.RowToStructByName", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pgx.RowToStructByName[order](rows); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Row.Scan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var o order
			if err := row.Scan(&o); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	_, row := orderRows(b)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = row.AppendJSON(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkMap(b *testing.B) {
	_, row := orderRows(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := row.Map(); err != nil {
			b.Fatal(err)
		}
	}
}
