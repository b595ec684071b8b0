package walchan

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

// piece is some rows.
type piece struct {
	mark      string
	src       *snapshot.Table
	rows      []string       // row blocks; "": the stream has it newer
	index     map[string]int // by key
	at        visibility
	first     bool
	bytes     int64
	last      []string // key of its last row
	exhausted bool     // it goes to the table's end
	fitting   int      // rows of the next one

	taken atomic.Bool // by the owner, or by the caller to read it anew

	weeded, begun bool // the owner's
	next          int  // the owner's: row to be delivered
	again         []string
	done          chan struct{} // closed when it is delivered
}

// readPiece reads the rows that are to be read once more, or else those that follow.
func (x *tableReading) readPiece(ctx context.Context) (*piece, error) {
	if _, err := x.conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return nil, err
	}
	v, err := x.look(ctx)
	if err != nil {
		return nil, err
	}
	x.pieces++
	p := &piece{mark: fmt.Sprintf("%s %d", x.id, x.pieces), src: x.src, index: map[string]int{}, at: v, first: x.delivered == 0, done: make(chan struct{})}
	rows := pgoutput.CopyRows{Columns: len(x.src.Columns)}
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
		p.index[keyOf(Row{x.table(), block}, x.columns)] = len(p.rows)
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
	p.last, p.exhausted, p.fitting = x.after, x.exhausted, x.size
	if len(x.again) == 0 {
		x.proceed(p, full)
	}
	return p, nil
}

// A piece begins small, for nobody knows how large the rows are, and comes to pieceBytes after a few. One whose rows are larger than those
// before ends at mostBytes.
const (
	firstRows  = 16
	pieceBytes = 1 << 20
	mostBytes  = 8 << 20
)

// proceed: the next piece begins behind this one. full: it has not all the rows that were asked for.
func (x *tableReading) proceed(p *piece, full bool) {
	p.exhausted = len(p.rows) < x.size && !full
	if len(p.rows) == 0 {
		return
	}
	last := Row{x.table(), p.rows[len(p.rows)-1]}
	p.last = nil
	for _, i := range x.columns {
		p.last = append(p.last, strings.Clone(last.Text(i)))
	}
	fitting := int(pieceBytes * int64(len(p.rows)) / max(p.bytes, 1))
	p.fitting = min(max(fitting, x.size/4, 1), 2*x.size, 10_000)
}

func (x *tableReading) query() string {
	key := make([]string, len(x.key))
	for i, name := range x.key {
		key[i] = pgsql.Quoted(name)
	}
	var conditions []string
	if x.src.Where != "" {
		conditions = append(conditions, "("+x.src.Where+"\n)")
	}
	limit := fmt.Sprintf(" ORDER BY %s LIMIT %d", strings.Join(key, ", "), x.size)
	switch {
	case len(x.again) > 0:
		var keys []string
		for _, k := range x.again {
			keys = append(keys, tupleOf(splitKey(k)))
		}
		conditions = append(conditions, fmt.Sprintf("(%s) IN (%s)", strings.Join(key, ", "), strings.Join(keys, ", ")))
		limit = ""
		if !x.exhausted { // what lies ahead will be read there
			conditions = append(conditions, fmt.Sprintf("(%s) <= %s", strings.Join(key, ", "), tupleOf(x.after)))
		}
	case x.after != nil:
		conditions = append(conditions, fmt.Sprintf("(%s) > %s", strings.Join(key, ", "), tupleOf(x.after)))
	}
	sql := "SELECT " + strings.Join(x.src.Columns, ", ") + " FROM " + x.from
	if conditions != nil {
		sql += " WHERE " + strings.Join(conditions, " AND ")
	}
	return sql + limit
}

// tupleOf writes values as SQL has them, of the types of what they are compared with.
func tupleOf(values []string) string {
	return "(" + pgsql.Literals(values) + ")"
}

// keyOf is the key of a row: no value has a zero byte.
func keyOf(r Row, columns []int) string {
	var b strings.Builder
	for _, i := range columns {
		b.WriteByte(0)
		b.WriteString(r.Text(i))
	}
	return b.String()
}

func splitKey(key string) []string { return strings.Split(key[1:], "\x00") }
