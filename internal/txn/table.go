package txn

import (
	"fmt"
	"slices"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
)

func (a *Assembler) table(oid uint32) (*Table, error) {
	t := a.tables[oid].Table
	if t == nil {
		return nil, pgfail.Unexpected(fmt.Sprintf("change of a table (OID %d) that was not described", oid))
	}
	return t, nil
}

func (a *Assembler) truncated(ev *pgoutput.Event) (all []*Table, err error) {
	for _, oid := range ev.Tables {
		t, err := a.table(oid)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// describe takes in the description of a table. For a transaction in progress tables are described again, and that after each
// savepoint that is rolled back.
func (a *Assembler) describe(ev *pgoutput.Event, seq uint64) (*Event, error) {
	was := a.tables[ev.OID].Table
	t := &Table{OID: ev.OID, Schema: ev.Schema, Name: ev.Name, Ident: ev.Ident, Columns: ev.Columns, Again: was != nil}
	isKnown := was != nil && seq < a.received && was.isDescribedAs(t)
	if isKnown {
		t = was
	}
	a.tables[ev.OID], a.last = described{t, seq}, nil
	if isKnown {
		return nil, nil
	}
	a.ev.Table = t
	return a.step(Describes, ev), nil
}

func (t *Table) isDescribedAs(o *Table) bool {
	return t.Schema == o.Schema && t.Name == o.Name && t.Ident == o.Ident && slices.Equal(t.Columns, o.Columns)
}
