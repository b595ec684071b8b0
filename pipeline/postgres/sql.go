package postgres

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
)

// Statements over many rows. Their parameters are an array of text for each column, and the casts are to the target's types,
// which are input functions' work, as it would be for text from a client.

func (p *plan) upsertSQL(columns []int) string {
	sql := "INSERT INTO " + p.name + " (" + p.list(columns, ", ", func(c column, _ int) string { return c.name }) +
		") OVERRIDING SYSTEM VALUE SELECT " + p.list(columns, ", ", func(c column, n int) string { return fmt.Sprintf("x.c%d::%s", n, c.typ) }) +
		" FROM " + p.unnest(columns)
	if len(p.key) == 0 {
		return sql
	}
	sql += " ON CONFLICT (" + p.list(p.key, ", ", func(c column, _ int) string { return c.name }) + ") DO "
	set := p.list(p.others(columns), ", ", func(c column, _ int) string { return c.name + " = EXCLUDED." + c.name })
	if set == "" {
		return sql + "NOTHING"
	}
	return sql + "UPDATE SET " + set
}

// updateSQL is "" where nothing but the key is given.
func (p *plan) updateSQL(columns []int) string {
	place := map[int]int{}
	for n, i := range columns {
		place[i] = n
	}
	var set []string
	for _, i := range p.others(columns) {
		set = append(set, fmt.Sprintf("%s = x.c%d::%s", p.columns[i].name, place[i], p.columns[i].typ))
	}
	if set == nil {
		return ""
	}
	return "UPDATE " + p.name + " AS t SET " + strings.Join(set, ", ") + " FROM " + p.unnest(columns) + " WHERE " + p.match(columns)
}

// others are the columns that an update sets: no key, nor what cannot be updated.
func (p *plan) others(columns []int) (others []int) {
	key := map[int]bool{}
	for _, k := range p.key {
		key[k] = true
	}
	for _, i := range columns {
		if !key[i] && !p.columns[i].fixed {
			others = append(others, i)
		}
	}
	return others
}

// unnest is the rows of the parameters, with a column for each of columns.
func (p *plan) unnest(columns []int) string {
	return "unnest(" + p.list(columns, ", ", func(_ column, n int) string { return fmt.Sprintf("$%d::text[]", n+1) }) +
		") AS x(" + p.list(columns, ", ", func(_ column, n int) string { return fmt.Sprintf("c%d", n) }) + ")"
}

// match finds the row of t by its key, which is among columns.
func (p *plan) match(columns []int) string {
	place := map[int]int{}
	for n, i := range columns {
		place[i] = n
	}
	parts := make([]string, len(p.key))
	for n, k := range p.key {
		parts[n] = fmt.Sprintf("t.%s = x.c%d::%s", p.columns[k].name, place[k], p.columns[k].typ)
	}
	return strings.Join(parts, " AND ")
}

// shape tells which columns a change has, '1', and which not, '0'.
func (p *plan) shape(c *change) string {
	b := make([]byte, len(p.columns))
	for i := range b {
		b[i] = '1'
		if s, _ := c.at(p, i); s == walchan.Unchanged {
			b[i] = '0'
		}
	}
	return string(b)
}

// arrays returns each of the columns as a text[] in binary format (array_send in src/backend/utils/adt/arrayfuncs.c).
func (p *plan) arrays(columns []int, rows []*change) [][]byte {
	arrays := make([][]byte, len(columns))
	for n, i := range columns {
		size := 20
		for _, c := range rows {
			_, v := c.at(p, i)
			size += 4 + len(v)
		}
		b := make([]byte, 0, size)
		for _, head := range []uint32{1, 1, pgtype.TextOID, uint32(len(rows)), 1} { // dimensions, has nulls, type, length, lower bound
			b = binary.BigEndian.AppendUint32(b, head)
		}
		for _, c := range rows {
			s, v := c.at(p, i)
			if s != walchan.Text {
				b = binary.BigEndian.AppendUint32(b, ^uint32(0))
				continue
			}
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
		}
		arrays[n] = b
	}
	return arrays
}
