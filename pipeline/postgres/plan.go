package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/walchan/walchan"
)

// ErrTable: the target's table is missing, or does not fit the source's.
var ErrTable = errors.New("the target's table does not fit")

// plan is how the rows of one relation are applied.
type plan struct {
	name    string // of the target's table, quoted
	columns []column
	key     []int // of columns; none: inserts only
}

type column struct {
	source int    // in the relation
	name   string // quoted
	typ    string // of the target
	fixed  bool   // GENERATED ALWAYS AS IDENTITY: can be inserted, not updated
}

// The type is printed as one with the modifier -1, which makes no difference to a cast, as bit and character without any do:
// these would cut the value off. The assignment to the column then checks the length.
const describeTable = `SELECT a.attname, format_type(a.atttypid, -1), a.attidentity = 'a', a.attgenerated <> '', coalesce(a.attnum = ANY (i.indkey), false)
	FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
	WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped`

// plan returns the plan of a relation; nil if its changes are to be left out.
func (s *Sink) plan(ctx context.Context, rel *walchan.Relation) (*plan, error) {
	if p, ok := s.plans[rel]; ok {
		return p, nil
	}
	schema, table, ok := s.cfg.table(rel)
	if !ok {
		s.plans[rel] = nil
		return nil, nil
	}
	p := &plan{name: quote(schema) + "." + quote(table)}
	rows, err := query(ctx, s.conn, describeTable, p.name)
	if err != nil {
		return nil, fmt.Errorf("look up %s in the target: %w", p.name, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%w: there is no %s; create it, or leave it out (WithTables)", ErrTable, p.name)
	}
	target, primary := map[string][]string{}, map[string]bool{}
	for _, r := range rows {
		target[r[0]] = r
		if r[4] == "t" {
			primary[r[0]] = true
		}
	}
	keyed := 0
	for i, c := range rel.Columns {
		r, ok := target[c.Name]
		if !ok {
			return nil, fmt.Errorf("%w: %s has no column %s; add it, or leave it out of the publication", ErrTable, p.name, quote(c.Name))
		}
		isKey := c.Key
		if rel.ReplicaIdentity == walchan.ReplicaIdentityFull {
			isKey = primary[c.Name]
		}
		if r[3] == "t" {
			continue // generated
		}
		if isKey {
			p.key = append(p.key, len(p.columns))
		}
		if primary[c.Name] {
			keyed++
		}
		p.columns = append(p.columns, column{i, quote(c.Name), r[1], r[2] == "t"})
	}
	if rel.ReplicaIdentity == walchan.ReplicaIdentityFull && keyed < len(primary) {
		p.key = nil // a part of it is no key
	}
	if len(s.plans) > 1000 {
		clear(s.plans) // relations come anew with every connection of the stream
	}
	s.plans[rel] = p
	return p, nil
}

// list joins what f makes of the columns at these indexes.
func (p *plan) list(columns []int, sep string, f func(c column, n int) string) string {
	parts := make([]string, len(columns))
	for n, i := range columns {
		parts[n] = f(p.columns[i], n)
	}
	return strings.Join(parts, sep)
}
