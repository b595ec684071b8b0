package backfill

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/snapshot"
)

// Piece is some rows. What is exported belongs to who delivers it.
type Piece struct {
	Table *snapshot.Table
	First bool // of the table
	Begun bool // for who delivers it

	mark  string
	rows  []string       // row blocks; "": the stream has it newer
	index map[string]int // by key
	at    visibility
	bytes int64
	end   place // how far the reading is with it

	taken atomic.Bool // by who delivers it, or by the reader, who reads it again

	weeded bool
	next   int      // row to be delivered
	again  []string // keys of rows that are to be read once more
	done   chan struct{}
}

// Next returns the row that is to be delivered next; false: there is no more.
func (p *Piece) Next() (block string, ok bool) {
	for ; p.next < len(p.rows); p.next++ {
		if block := p.rows[p.next]; block != "" {
			return block, true
		}
	}
	return "", false
}

// Delivered notes that the row of Next was delivered.
func (p *Piece) Delivered() {
	p.next++
	p.Table.Rows.Add(1)
}

// IsLast says whether nothing of the table comes after it.
func (p *Piece) IsLast() bool { return p.end.exhausted && len(p.again) == 0 }

// readPiece reads the rows of again; if there are none, the next ones in the order of the key.
func (x *reader) readPiece(ctx context.Context) (*Piece, error) {
	if _, err := x.conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return nil, err
	}
	v, err := x.look(ctx)
	if err != nil {
		return nil, err
	}
	x.pieces++
	p := &Piece{Table: x.target.Table, First: x.delivered == 0, mark: fmt.Sprintf("%s %d", x.id, x.pieces), index: map[string]int{}, at: v,
		end: x.place, done: make(chan struct{})}
	rows := pgoutput.CopyRows{Columns: len(x.target.Columns)}
	full := false
	err = x.conn.Copy(ctx, "COPY ("+x.query()+") TO STDOUT", func(line []byte) error {
		if full = p.bytes > mostBytes && len(x.again) == 0; full { // the next piece has it
			return nil
		}
		block, err := rows.Line(line)
		if err != nil {
			return pgfail.Malformed(0, err)
		}
		p.bytes += int64(len(line))
		p.index[keyOf(block, rows.Columns, x.target.columns)] = len(p.rows)
		p.rows = append(p.rows, block)
		return nil
	}, func() error { return nil })
	if err == nil {
		err = x.checkShape(ctx)
	}
	if err == nil {
		_, err = x.conn.Query(ctx, "COMMIT")
	}
	if err != nil {
		return nil, err
	}
	if len(x.again) == 0 {
		x.proceed(p, full)
	}
	return p, nil
}

// Nobody knows at first how large the rows are. So the first piece is small, and after a few they have pieceBytes. A piece whose rows are
// larger than those before ends at mostBytes.
const (
	firstRows  = 16
	pieceBytes = 1 << 20
	mostBytes  = 8 << 20
)

// proceed has the next piece begin after this one. full says that p does not have all the rows that were asked for.
func (x *reader) proceed(p *Piece, full bool) {
	p.end.exhausted = len(p.rows) < x.place.size && !full
	if len(p.rows) == 0 {
		return
	}
	last := keyOf(p.rows[len(p.rows)-1], len(x.target.Columns), x.target.columns) // a copy
	p.end.after = splitKey(last)
	fitting := int(pieceBytes * int64(len(p.rows)) / max(p.bytes, 1))
	p.end.size = min(max(fitting, x.place.size/4, 1), 2*x.place.size, 10_000)
}

func (x *reader) query() string {
	key := make([]string, len(x.notes.key))
	for i, name := range x.notes.key {
		key[i] = pgsql.Quoted(name)
	}
	var conditions []string
	if x.target.Where != "" {
		conditions = append(conditions, "("+x.target.Where+"\n)")
	}
	limit := fmt.Sprintf(" ORDER BY %s LIMIT %d", strings.Join(key, ", "), x.place.size)
	switch {
	case len(x.again) > 0:
		var keys []string
		for _, k := range x.again {
			keys = append(keys, tupleOf(splitKey(k)))
		}
		conditions = append(conditions, fmt.Sprintf("(%s) IN (%s)", strings.Join(key, ", "), strings.Join(keys, ", ")))
		limit = ""
		if !x.place.exhausted { // what lies ahead will be read there
			conditions = append(conditions, fmt.Sprintf("(%s) <= %s", strings.Join(key, ", "), tupleOf(x.place.after)))
		}
	case x.place.after != nil:
		conditions = append(conditions, fmt.Sprintf("(%s) > %s", strings.Join(key, ", "), tupleOf(x.place.after)))
	}
	sql := "SELECT " + strings.Join(x.target.Columns, ", ") + " FROM " + x.target.from
	if conditions != nil {
		sql += " WHERE " + strings.Join(conditions, " AND ")
	}
	return sql + limit
}

// tupleOf writes values as SQL has them, of the types of what they are compared with.
func tupleOf(values []string) string {
	return "(" + pgsql.Literals(values) + ")"
}

// keyOf is the key of a row of n columns: no value has a zero byte.
func keyOf(block string, n int, columns []int) string {
	var b strings.Builder
	for _, i := range columns {
		_, text := pgoutput.Column(block, n, i)
		b.WriteByte(0)
		b.WriteString(text)
	}
	return b.String()
}

func splitKey(key string) []string { return strings.Split(key[1:], "\x00") }
