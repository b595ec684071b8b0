package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

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
const describeTable = `SELECT a.attname, format_type(a.atttypid, -1), a.attidentity = 'a', a.attgenerated <> '', coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)
	FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
	WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped`

// plan returns the plan of a relation; nil if its changes are to be left out.
func (s *Sink) plan(ctx context.Context, rel *walchan.Relation) (*plan, error) {
	if p, ok := s.plans[rel]; ok {
		return p, nil
	}
	var p *plan
	if schema, table, ok := s.cfg.table(rel); ok {
		name := quote(schema) + "." + quote(table)
		target, err := lookUp(ctx, s.conn, name)
		if err != nil {
			return nil, err
		}
		if p, err = newPlan(rel, name, target); err != nil {
			return nil, err
		}
	}
	s.plans[rel] = p
	return p, nil
}

// targetColumn is a column of the target's table.
type targetColumn struct {
	typ                       string
	fixed, generated, primary bool
}

func lookUp(ctx context.Context, conn *pgconn.PgConn, table string) (map[string]targetColumn, error) {
	rows, err := query(ctx, conn, describeTable, table)
	if err != nil {
		return nil, fmt.Errorf("look up %s in the target: %w", table, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%w: there is no %s; create it, or leave it out (WithTables)", ErrTable, table)
	}
	columns := map[string]targetColumn{}
	for _, r := range rows {
		columns[r[0]] = targetColumn{r[1], r[2] == "t", r[3] == "t", r[4] == "t"}
	}
	return columns, nil
}

func newPlan(rel *walchan.Relation, name string, target map[string]targetColumn) (*plan, error) {
	p, full := &plan{name: name}, rel.ReplicaIdentity == walchan.ReplicaIdentityFull
	for i, c := range rel.Columns {
		t, ok := target[c.Name]
		if !ok {
			return nil, fmt.Errorf("%w: %s has no column %s; add it, or leave it out of the publication", ErrTable, name, quote(c.Name))
		}
		if t.generated {
			continue
		}
		if full && t.primary || !full && c.Key {
			p.key = append(p.key, len(p.columns))
		}
		p.columns = append(p.columns, column{i, quote(c.Name), t.typ, t.fixed})
	}
	if full {
		primary := 0
		for _, t := range target {
			primary += btoi(t.primary)
		}
		if len(p.key) < primary {
			p.key = nil // a part of it is no key
		}
	}
	return p, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// list joins what f makes of the columns at these indexes.
func (p *plan) list(columns []int, sep string, f func(c column, n int) string) string {
	parts := make([]string, len(columns))
	for n, i := range columns {
		parts[n] = f(p.columns[i], n)
	}
	return strings.Join(parts, sep)
}
