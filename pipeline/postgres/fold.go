package postgres

import (
	"encoding/binary"
	"fmt"

	"github.com/walchan/walchan"
)

// fold gathers changes, of several to one row only what comes of them, until something has to keep its place among them.
type fold struct {
	script *script
	tables []*changes
	of     map[string]*changes // by the table's name
}

// changes are what was gathered for one table.
type changes struct {
	*plan
	rows  []change
	of    map[string]int // key → rows
	added []walchan.Row  // of a table without key
}

// change is what becomes of one row.
type change struct {
	row     walchan.Row // the new one; of a delete the old one
	cells   []cell      // instead of row, where several were merged
	partial bool        // some columns are not to be changed
	deleted bool
}

type cell struct {
	state walchan.State
	text  string
}

func newFold(s *script) *fold { return &fold{script: s, of: map[string]*changes{}} }

func (f *fold) table(p *plan) *changes {
	c, ok := f.of[p.name]
	if ok && c.plan != p { // the source's table was altered, or the stream has a new connection
		f.flush()
		ok = false
	}
	if !ok {
		c = &changes{plan: p, of: map[string]int{}}
		f.of[p.name] = c
		f.tables = append(f.tables, c)
	}
	return c
}

func (f *fold) insert(p *plan, row walchan.Row) error {
	if err := p.check(row); err != nil {
		return err
	}
	t := f.table(p)
	if len(p.key) == 0 {
		t.added = append(t.added, row)
		return nil
	}
	key, err := p.keyOf(row)
	if err != nil {
		return err
	}
	t.put(key, change{row: row})
	return nil
}

func (f *fold) remove(p *plan, old walchan.Row) error {
	key, err := p.keyOf(old)
	if err != nil {
		return err
	}
	f.table(p).put(key, change{row: old, deleted: true})
	return nil
}

func (f *fold) update(p *plan, old, row walchan.Row) error {
	if err := p.check(row); err != nil {
		return err
	}
	key, err := p.keyOf(row)
	moved := false
	if old.Len() > 0 {
		before, oldErr := p.keyOf(old)
		switch {
		case oldErr != nil:
			return oldErr
		case err != nil: // a key that is TOASTed, and was not changed
			key, err = before, nil
		default:
			moved = before != key
		}
	}
	if err != nil {
		return err
	}
	if moved {
		// The row keeps its place: others may refer to it, or have had its key before.
		f.flush()
		f.script.move(p, old, row)
		return nil
	}
	t, c := f.table(p), change{row: row}
	c.partial = p.isPartial(&c)
	if i, ok := t.of[key]; ok && c.partial {
		c = p.merge(t.rows[i], c)
	}
	t.put(key, c)
	return nil
}

func (f *fold) truncate(plans []*plan, restart bool) {
	if len(plans) == 0 {
		return
	}
	f.flush()
	f.script.truncate(plans, restart)
}

// flush makes statements of what was gathered: rows that others refer to come before these, and go after them, as far as their
// order tells.
func (f *fold) flush() {
	for _, t := range f.tables {
		f.script.upsert(t)
	}
	for i := len(f.tables) - 1; i >= 0; i-- {
		f.script.remove(f.tables[i])
	}
	f.tables = f.tables[:0]
	clear(f.of)
}

func (t *changes) put(key string, c change) {
	if i, ok := t.of[key]; ok {
		t.rows[i] = c
		return
	}
	t.of[key] = len(t.rows)
	t.rows = append(t.rows, c)
}

// keyOf returns the key of a row.
func (p *plan) keyOf(row walchan.Row) (string, error) {
	if len(p.key) == 0 {
		return "", unfit{fmt.Errorf("update or delete in %s: neither the source has a replica identity that names columns, nor the target a primary key", p.name)}
	}
	var b []byte
	for _, k := range p.key {
		i := p.columns[k].source
		s, v := row.State(i), row.Text(i)
		if s == walchan.Binary {
			return "", errBinary
		}
		if s != walchan.Text {
			return "", unfit{fmt.Errorf("the key of a row of %s is %v", p.name, s)}
		}
		if len(p.key) == 1 {
			return v, nil
		}
		b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
	}
	return string(b), nil
}

// check finds values that cannot be passed on.
func (p *plan) check(row walchan.Row) error {
	for _, c := range p.columns {
		if row.State(c.source) == walchan.Binary {
			return errBinary
		}
	}
	return nil
}

func (p *plan) isPartial(c *change) bool {
	for i := range p.columns {
		if s, _ := c.at(p, i); s == walchan.Unchanged {
			return true
		}
	}
	return false
}

// at returns column i of the plan.
func (c *change) at(p *plan, i int) (walchan.State, string) {
	if c.cells != nil {
		return c.cells[i].state, c.cells[i].text
	}
	i = p.columns[i].source
	return c.row.State(i), c.row.Text(i)
}

// merge fills what next does not change in from what was before.
func (p *plan) merge(before, next change) change {
	cells := make([]cell, len(p.columns))
	for i := range cells {
		s, v := next.at(p, i)
		if s == walchan.Unchanged && !before.deleted {
			s, v = before.at(p, i)
		}
		cells[i] = cell{s, v}
	}
	next.cells = cells
	next.partial = p.isPartial(&next)
	return next
}
