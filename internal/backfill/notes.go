package backfill

import (
	"slices"
	"sync/atomic"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/txn"
)

// Notes are the changes of the table, as its stream comes to them. Where it comes to a piece's mark, the piece is delivered without the
// rows that were changed since. Its methods are for who delivers the changes.
type Notes struct {
	oid uint32   // of the table
	key []string // names of the key's columns

	seen  atomic.Pointer[visibility] // what the pieces to come will see at least
	piece atomic.Pointer[Piece]      // to be delivered at its mark

	notes []note
	table *txn.Table // of which keyAt is
	keyAt []int
}

// note is a change of the table that is not yet known to be seen by the pieces to come.
type note struct {
	xid       uint32
	old, new  string // keys; "": none
	unchanged bool   // large values are left out
	truncate  bool
}

func (n *note) movedWithout() bool { return n.unchanged && n.old != "" && n.old != n.new }

// Note notes a change, if it is one of the table.
func (x *Notes) Note(ev *txn.Event, xid uint32) {
	if ev.Type == pgoutput.Truncate {
		if slices.ContainsFunc(ev.Tables, func(t *txn.Table) bool { return t.OID == x.oid }) {
			x.notes = append(x.notes, note{xid: xid, truncate: true})
		}
		return
	}
	if ev.Table.OID != x.oid {
		return
	}
	if ev.Table != x.table {
		x.table, x.keyAt = ev.Table, nil
		for _, name := range x.key {
			if i := slices.IndexFunc(ev.Table.Columns, func(c pgoutput.Col) bool { return c.Name == name }); i >= 0 {
				x.keyAt = append(x.keyAt, i)
			}
		}
	}
	n, columns := note{xid: xid}, len(ev.Table.Columns)
	if ev.Split > 0 {
		n.old = keyOf(ev.Block, columns, x.keyAt)
	}
	if ev.Type != pgoutput.Delete {
		row := ev.Block[:len(ev.Block)-int(ev.Split)]
		n.new = keyOf(row, columns, x.keyAt)
		for i := range columns {
			kind, _ := pgoutput.Column(row, columns, i)
			n.unchanged = n.unchanged || kind == 'u'
		}
	}
	x.notes = append(x.notes, n)
	if v := x.seen.Load(); v != nil && len(x.notes)%1024 == 0 { // the stream is behind
		x.notes = slices.DeleteFunc(x.notes, func(n note) bool { return v.sees(n.xid) && !n.movedWithout() })
	}
}

// Take returns the piece that is to be delivered at a mark; nil: none. If the connection breaks before Done, the mark comes again, and the
// same piece is returned.
func (x *Notes) Take(mark string) *Piece {
	p := x.piece.Load()
	if p == nil || p.mark != mark {
		return nil
	}
	if !p.weeded {
		if !p.taken.CompareAndSwap(false, true) {
			return nil
		}
		p.weeded = true
		x.weed(p)
	}
	return p
}

// Done notes that the piece was delivered.
func (x *Notes) Done(p *Piece) {
	if p.IsLast() {
		p.Table.Left.Store(0)
	}
	p.Table.Bytes.Add(p.bytes)
	x.piece.Store(nil)
	close(p.done)
}

// weed takes those rows out of a piece of which the stream has delivered a newer version. It finds the rows that must be read once more:
// the consumer does not have their large values, because they were changed before they were read, or moved to where the reading had been.
// It forgets the changes that the piece has seen, because later pieces see them, too.
func (x *Notes) weed(p *Piece) {
	again := map[string]bool{}
	take := func(key string) bool {
		delete(again, key)
		i, ok := p.index[key]
		if ok {
			p.rows[i] = ""
		}
		return ok
	}
	x.notes = slices.DeleteFunc(x.notes, func(n note) bool {
		seen := p.at.sees(n.xid)
		switch {
		case seen && n.movedWithout():
			again[n.new] = true
		case seen:
		case n.truncate:
			clear(p.rows)
			clear(again)
		default:
			had := take(n.old)
			if had = take(n.new) || had; had && n.unchanged {
				again[n.new] = true
			}
		}
		return seen
	})
	for key := range again {
		p.again = append(p.again, key)
	}
}
