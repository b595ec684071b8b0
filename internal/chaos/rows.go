package main

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// The sink of PostgreSQL holds rows. What it did to them is in the table audit (targets.go): statement after statement what
// became of each row, and behind those of a batch its position. Of several changes to a row a batch applies the last one alone:
// so it is after each batch that a row must be as the source had it then.

// An event is a row of the table audit.
type event struct{ op, row, version string }

// rowComparison follows the rows of the source and of the target, from batch to batch.
type rowComparison struct {
	verdict
	ref       *reference
	index     map[place]int // of ref.effects, by position
	next      int           // of ref.effects: the first that no batch has reached
	want, got rowStates
	touched   map[string]bool // by the batch, on either side

	partial bool  // the end may be missing
	known   place // the last known position
	beyond  bool  // a batch has come after that position
}

// rowStates are the versions of the rows that there are.
type rowStates map[string]string

// newRowComparison begins with the rows that the target had when it was made. positions are those of ref.published.
func newRowComparison(ref *reference, base rowStates, positions []string) *rowComparison {
	c := &rowComparison{ref: ref, index: map[place]int{}, want: rowStates{}, got: rowStates{}, touched: map[string]bool{}}
	maps.Copy(c.want, base)
	maps.Copy(c.got, base)
	for i, s := range positions {
		if p, err := parsePlace(s); err == nil {
			c.index[p], c.known = i, p
		}
	}
	return c
}

func (c *rowComparison) take(e event) {
	if c.beyond {
		return
	}
	if e.op == "POSITION" {
		c.commit(e.version)
		return
	}
	c.Delivered++
	before, there := c.got[e.row]
	switch e.op {
	case "NOTHING":
		c.complain(&c.Repeated, "repeated: %s was updated to what it was, %s", e.row, before)
	case "INSERT":
		if there {
			c.complain(&c.Repeated, "repeated: %s was inserted, and is there as %s", e.row, before)
		}
		c.set(c.got, e.row, e.version)
	case "UPDATE":
		c.set(c.got, e.row, e.version)
	case "DELETE":
		c.remove(c.got, e.row)
	case "TRUNCATE":
		c.truncate(c.got, e.row)
	}
}

func (c *rowComparison) set(rows rowStates, row, version string) {
	rows[row] = version
	c.touched[row] = true
}

func (c *rowComparison) remove(rows rowStates, row string) {
	delete(rows, row)
	c.touched[row] = true
}

func (c *rowComparison) truncate(rows rowStates, table string) {
	for row := range rows {
		if strings.HasPrefix(row, table+" ") {
			c.remove(rows, row)
		}
	}
}

// commit is the end of a batch, up to and with a position.
func (c *rowComparison) commit(position string) {
	p, err := parsePlace(position)
	i, ok := c.index[p]
	switch {
	case err == nil && !ok && c.partial && c.known.before(p): // nobody else has come as far
		c.beyond = true
		clear(c.touched)
		return
	case err != nil || !ok:
		c.complain(&c.Invented, "invented: position %s (%v)", position, err)
		return
	case i < c.next:
		c.complain(&c.Repeated, "repeated: a batch up to %s, behind a later one", position)
	}
	c.advance(i + 1)
	c.compare(position)
}

// advance applies the changes of the source below an index.
func (c *rowComparison) advance(end int) {
	for ; c.next < end; c.next++ {
		e := c.ref.effects[c.next]
		switch {
		case e.truncate != "":
			c.truncate(c.want, e.truncate)
			continue
		case e.gone != "":
			c.remove(c.want, e.gone)
		}
		if e.row != "" {
			c.set(c.want, e.row, e.version)
		}
	}
}

// compare compares the rows that have changed.
func (c *rowComparison) compare(when string) {
	for row := range c.touched {
		want, due := c.want[row]
		got, there := c.got[row]
		switch {
		case due && (!there || got != want):
			c.complain(&c.Lost, "lost: %s is %q after %s, and not %q", row, got, when, want)
		case there && !due:
			c.complain(&c.Invented, "invented: %s is %q after %s, and should be gone", row, got, when)
		}
	}
	clear(c.touched)
}

// result is the verdict, after the last call of take. With partial nothing is missing after the last batch.
func (c *rowComparison) result() verdict {
	if len(c.touched) > 0 {
		c.complain(&c.Invented, "invented: %d rows have changed without a position", len(c.touched))
	}
	if !c.partial {
		c.advance(len(c.ref.effects))
		c.compare("the end")
	}
	return c.verdict
}

// comparePostgres compares what was done to the rows, and at the end all that is in them.
func comparePostgres(ctx context.Context, d due, positions []string, source, replica string) (verdict, error) {
	cmp := newRowComparison(d.reference, d.base, positions)
	cmp.partial = d.partial
	conn, err := pgconn.Connect(ctx, replica)
	if err != nil {
		return verdict{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows := conn.ExecParams(ctx, "SELECT op, row, version FROM audit ORDER BY n", nil, nil, nil, nil)
	for rows.NextRow() {
		v := rows.Values()
		cmp.take(event{string(v[0]), string(v[1]), string(v[2])})
	}
	if _, err := rows.Close(); err != nil {
		return verdict{}, err
	}
	v := cmp.result()
	if d.partial {
		return v, nil // the source is another one by now
	}
	for _, table := range []string{"accounts", "documents", "scratch", "marker", "ledger"} {
		sql := "SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY t.id)), '') FROM " + contentsOf[table] + " t"
		want, err := queryDSN(ctx, source, sql)
		got, err2 := queryDSN(ctx, replica, sql)
		if err := errors.Join(err, err2); err != nil {
			return v, err
		}
		if want != got {
			v.complain(&v.Lost, "lost: %s has %s, and in the source %s", table, got, want)
		}
	}
	return v, nil
}

// contentsOf are the tables without the column that comes and goes, whose default a publication does not send.
var contentsOf = map[string]string{
	"accounts":  "(SELECT id, tx, amount, v, note FROM accounts)",
	"documents": "(SELECT id, tx, at, body FROM documents)",
	"scratch":   "scratch",
	"marker":    "marker",
	"ledger":    "(SELECT tx AS id, changes FROM ledger)",
}
