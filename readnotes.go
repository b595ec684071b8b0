package walchan

import (
	"slices"

	"github.com/walchan/walchan/internal/resume"
)

// The owner's part of ReadRows: it notes the changes of the table, and where it comes to a piece's mark it delivers the piece
// without the rows that were changed since.

// note is a change of the table that is not yet known to be seen by the pieces to come.
type note struct {
	xid       uint32
	old, new  string // keys; "": none
	unchanged bool   // large values are left out
	truncate  bool
}

func (n *note) movedWithout() bool { return n.unchanged && n.old != "" && n.old != n.new }

// note notes a change of the table, as the stream comes to it. The owner calls it.
func (x *tableReading) note(m *Message, xid uint32) {
	if m.Kind == Truncate {
		if tables, _, _ := m.Truncated(); slices.ContainsFunc(tables, func(r *Relation) bool { return r.OID == x.oid }) {
			x.notes = append(x.notes, note{xid: xid, truncate: true})
		}
		return
	}
	if m.Relation.OID != x.oid {
		return
	}
	if m.Relation != x.rel {
		x.rel, x.keyAt = m.Relation, nil
		for _, name := range x.key {
			if i := m.Relation.Index(name); i >= 0 {
				x.keyAt = append(x.keyAt, i)
			}
		}
	}
	n := note{xid: xid}
	if old := m.Old(); old.Len() > 0 {
		n.old = keyOf(old, x.keyAt)
	}
	if row := m.New(); row.Len() > 0 {
		n.new = keyOf(row, x.keyAt)
		for i := range row.Len() {
			n.unchanged = n.unchanged || row.State(i) == Unchanged
		}
	}
	x.notes = append(x.notes, n)
	if v := x.seen.Load(); v != nil && len(x.notes)%1024 == 0 { // the stream is behind
		x.notes = slices.DeleteFunc(x.notes, func(n note) bool { return v.sees(n.xid) && !n.movedWithout() })
	}
}

// deliver delivers the piece whose mark m the stream has come to. The owner calls it; again, if the connection breaks meanwhile and
// the mark comes again.
func (x *tableReading) deliver(o *owner, m *Message, at *resume.Place) error {
	p := x.piece.Load()
	if p == nil || p.mark != m.data {
		return nil
	}
	if !p.weeded {
		if !p.taken.CompareAndSwap(false, true) {
			return nil
		}
		p.weeded = true
		x.weed(p)
	}
	out := Message{LSN: m.LSN, sent: m.sent}
	info := &Snapshot{Tables: []*Relation{p.src.Owner.(*Relation)}, Attempt: 1, Among: true, at: at}
	if p.first && !p.begun {
		out.Kind, out.ext = SnapshotBegin, info
		if err := o.deliver(&out); err != nil {
			return err
		}
		p.begun = true
	}
	out.Kind, out.ext, out.Relation = Read, at, p.src.Owner.(*Relation)
	for ; p.next < len(p.rows); p.next++ {
		if out.data = p.rows[p.next]; out.data == "" {
			continue
		}
		if err := o.deliver(&out); err != nil {
			return err
		}
		p.src.Rows.Add(1)
	}
	if p.exhausted && len(p.again) == 0 {
		if err := o.deliver(&Message{Kind: SnapshotEnd, LSN: m.LSN, sent: m.sent, ext: info}); err != nil {
			return err
		}
		p.src.Left.Store(0)
	}
	p.src.Bytes.Add(p.bytes)
	x.piece.Store(nil)
	close(p.done)
	return nil
}

// weed takes out of a piece what the stream has delivered newer, and finds what is to be read once more: rows whose large
// values the consumer does not have, for they were changed before they were read, or moved to where the reading had been. It
// forgets the changes that the piece has seen, for later ones see them, too.
func (x *tableReading) weed(p *piece) {
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
