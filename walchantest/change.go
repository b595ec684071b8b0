package walchantest

import (
	"fmt"
	"slices"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// Change is one change of a transaction. Tables make those of rows.
type Change struct {
	kind   kind
	tables []*Table
	row    []any // as fakewal has it; nil: none
	old    []any

	cascade, restart bool

	transactional   bool
	prefix, payload string
}

type kind uint8

const (
	insert kind = iota
	update
	remove
	truncate
	message
)

// Insert inserts a row: a value for each column.
//
// A value is nil for NULL; a string, which is taken for what PostgreSQL prints ("{a,b}" for an array, "t" for true); or
// whatever pgx would take as an argument for the column's type, such as int, bool, []string, time.Time, or a map for jsonb.
func (t *Table) Insert(values ...any) Change {
	c := Change{kind: insert, tables: []*Table{t}, row: t.row(values)}
	if slices.Contains(c.row, Unchanged) {
		panic(fmt.Sprintf("walchantest: INSERT into %s: Unchanged is for an Update", t.name()))
	}
	return c
}

// Unchanged is the value of a large (TOASTed) column that an Update leaves as it is, and that the server therefore does not
// send.
var Unchanged any = fakewal.Unchanged

// Update makes a row what values say, which are as for Insert, or Unchanged. From tells what the row was before.
func (t *Table) Update(values ...any) Change {
	t.needIdentity("UPDATE")
	return Change{kind: update, tables: []*Table{t}, row: t.row(values)}
}

// From gives the row before an Update: all columns, or those of the primary key alone. The replica identity decides what
// of it reaches the stream, as in earnest: the key if it changes; with ReplicaIdentityFull the whole row, which then must
// be given.
func (c Change) From(values ...any) Change {
	if c.kind != update {
		panic("walchantest: From is for an Update")
	}
	c.old = c.tables[0].oldRow(values)
	return c
}

// Delete deletes a row, given by all columns, or by those of the primary key alone. The replica identity decides what of it
// reaches the stream: the key; with ReplicaIdentityFull the whole row, which then must be given.
func (t *Table) Delete(values ...any) Change {
	t.needIdentity("DELETE")
	c := Change{kind: remove, tables: []*Table{t}}
	c.old = t.oldRow(values)
	return c
}

// Truncate empties tables together.
func Truncate(tables ...*Table) Change { return Change{kind: truncate, tables: tables} }

// Cascade is a Truncate's CASCADE.
func (c Change) Cascade() Change {
	c.cascade = true
	return c
}

// RestartIdentity is a Truncate's RESTART IDENTITY.
func (c Change) RestartIdentity() Change {
	c.restart = true
	return c
}

// LogicalMessage is pg_logical_emit_message's. One that is not transactional stands by itself in the log.
func LogicalMessage(transactional bool, prefix, payload string) Change {
	return Change{kind: message, transactional: transactional, prefix: prefix, payload: payload}
}

// check finds the mistakes that show only when the change is complete.
func (c Change) check() {
	switch {
	case c.kind == message && !c.transactional:
		panic("walchantest: a logical message that is not transactional cannot be part of a transaction")
	case c.kind == update && c.old == nil && c.tables[0].full():
		panic(fmt.Sprintf("walchantest: %s has REPLICA IDENTITY FULL: an Update needs From", c.tables[0].name()))
	}
}

// encode returns what pgoutput makes of the change.
func (c Change) encode(lsn walchan.LSN) []byte {
	switch c.kind {
	case truncate:
		var oids []uint32
		for _, t := range c.tables {
			oids = append(oids, t.rel.OID)
		}
		return fakewal.Truncate(c.cascade, c.restart, oids...)
	case message:
		return fakewal.Message(c.transactional, lsn, c.prefix, []byte(c.payload))
	}
	t := c.tables[0]
	switch {
	case c.kind == insert:
		return fakewal.Insert(t.rel.OID, c.row...)
	case c.kind == remove:
		return fakewal.Delete(t.rel.OID, t.identity(), t.sent(c.old)...)
	case t.full(), c.old != nil && t.keyChanges(c.old, c.row):
		return fakewal.Update(t.rel.OID, t.identity(), t.sent(c.old), c.row)
	}
	return fakewal.Update(t.rel.OID, 0, nil, c.row)
}
