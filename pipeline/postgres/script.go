package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// script is the statements of a transaction, which are sent together.
type script struct {
	conn       *pgconn.PgConn
	item       int // of the batch, whose statements are being added; -1: those of several
	statements []statement
	affected   []int // rows, by each statement
}

type statement struct {
	sql    string
	params [][]byte
	arrays bool   // params are text[] in binary format
	table  string // for messages
	expect int    // rows that it should affect; 0: does not matter
	guard  bool   // it divides by zero if the target is not what it was
	item   int
}

func (s *script) add(st statement) {
	st.item = s.item
	s.statements = append(s.statements, st)
}

// run runs the statements. They are one transaction, for they are followed by one Sync (PostgreSQL documentation,
// protocol-flow, "Pipelining").
func (s *script) run(ctx context.Context) error {
	var batch pgconn.Batch
	for _, st := range s.statements {
		var formats []int16
		if st.arrays {
			formats = []int16{pgtype.BinaryFormatCode}
		}
		batch.ExecParams(st.sql, st.params, nil, formats, nil)
	}
	results, err := s.conn.ExecBatch(ctx, &batch).ReadAll()
	if err != nil {
		st := statement{item: -1} // of a constraint that is deferred to the end
		if n := complete(results); n < len(s.statements) {
			st = s.statements[n]
		}
		if st.guard && state(err) == "22012" { // division_by_zero
			return targetLost("the row in walchan_position is not what this sink has stored last; end what else writes there, or copy the tables again")
		}
		if err = applyError(st, err); isRefusal(err) {
			err = &pipeline.RefusedError{Item: st.item, Err: err}
		}
		return err
	}
	for _, r := range results {
		s.affected = append(s.affected, int(r.CommandTag.RowsAffected()))
	}
	return nil
}

// complete counts the statements that have succeeded. One that returns rows has a result when it fails, too.
func complete(results []*pgconn.Result) int {
	for i, r := range results {
		if r.Err != nil {
			return i
		}
	}
	return len(results)
}

// upsert adds the rows of a table that are not to be deleted.
func (s *script) upsert(t *changes) {
	all := make([]int, len(t.columns))
	for i := range all {
		all[i] = i
	}
	whole := make([]*change, 0, len(t.rows)+len(t.added))
	for i := range t.added {
		whole = append(whole, &change{row: t.added[i]})
	}
	partial, shapes := map[string][]*change{}, []string(nil)
	for i := range t.rows {
		switch c := &t.rows[i]; {
		case c.deleted:
		case c.partial:
			shape := t.shape(c)
			if partial[shape] == nil {
				shapes = append(shapes, shape)
			}
			partial[shape] = append(partial[shape], c)
		default:
			whole = append(whole, c)
		}
	}
	if len(whole) > 0 && len(all) > 0 {
		s.add(statement{sql: t.upsertSQL(all), params: t.arrays(all, whole), arrays: true, table: t.name})
	}
	for _, shape := range shapes {
		var present []int
		for i := range shape {
			if shape[i] == '1' {
				present = append(present, i)
			}
		}
		if sql := t.updateSQL(present); sql != "" {
			rows := partial[shape]
			s.add(statement{sql: sql, params: t.arrays(present, rows), arrays: true, table: t.name, expect: len(rows)})
		}
	}
}

// remove adds the rows of a table that are to be deleted.
func (s *script) remove(t *changes) {
	var rows []*change
	for i := range t.rows {
		if t.rows[i].deleted {
			rows = append(rows, &t.rows[i])
		}
	}
	if len(rows) > 0 {
		sql := "DELETE FROM " + t.name + " AS t USING " + t.unnest(t.key) + " WHERE " + t.match(t.key)
		s.add(statement{sql: sql, params: t.arrays(t.key, rows), arrays: true, table: t.name})
	}
}

// move adds an update of the key. The row may have its new key already, for a foreign key of the target may cascade. A whole
// row that is not there is inserted, as by other updates.
func (s *script) move(p *plan, old, row walchan.Row) {
	st := statement{table: p.name, expect: 1}
	param := func(row walchan.Row, c column) string {
		var b []byte
		if row.State(c.source) == walchan.Text {
			b = append([]byte{}, row.Text(c.source)...)
		}
		st.params = append(st.params, b)
		return fmt.Sprintf("$%d::text::%s", len(st.params), c.typ)
	}
	var names, values, set, before, after []string
	for _, c := range p.columns {
		if row.State(c.source) == walchan.Unchanged {
			continue
		}
		v := param(row, c)
		names, values = append(names, c.name), append(values, v)
		if !c.fixed {
			set = append(set, c.name+" = "+v)
		}
	}
	for _, k := range p.key {
		c := p.columns[k]
		before = append(before, c.name+" = "+param(old, c))
		now := row
		if row.State(c.source) == walchan.Unchanged {
			now = old
		}
		after = append(after, c.name+" = "+param(now, c))
	}
	st.sql = "UPDATE " + p.name + " SET " + strings.Join(set, ", ") +
		" WHERE " + strings.Join(before, " AND ") + " OR " + strings.Join(after, " AND ")
	if len(names) == len(p.columns) {
		st.sql = "WITH moved AS (" + st.sql + " RETURNING 1) INSERT INTO " + p.name + " (" + strings.Join(names, ", ") + ") OVERRIDING SYSTEM VALUE SELECT " +
			strings.Join(values, ", ") + " WHERE NOT EXISTS (SELECT FROM moved)"
		st.expect = 0
	}
	s.add(st)
}

func (s *script) truncate(plans []*plan, restart bool) {
	names := make([]string, len(plans))
	for i, p := range plans {
		names[i] = p.name
	}
	sql := "TRUNCATE " + strings.Join(names, ", ")
	if restart {
		sql += " RESTART IDENTITY"
	}
	s.add(statement{sql: sql, table: plans[0].name})
}
