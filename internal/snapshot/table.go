package snapshot

import (
	"sync/atomic"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/tables"
)

// Table is a table whose rows are read.
type Table struct {
	*tables.Table
	Owner any // what the caller makes of it

	Columns []string // as in SELECT
	Text    []bool   // of these, which are text although binary is asked for
	Where   string   // the publication's condition and ours

	generated bool // see tables.Published

	EstimatedRows, EstimatedBytes int64
	Rows, Bytes                   atomic.Int64 // delivered
	Left                          atomic.Int32 // parts that are not
}

// NewTable is what has to be known of a table to read it.
func NewTable(t *tables.Published, binary bool) *Table {
	table := &Table{Table: t.Table, Where: t.Where, generated: t.Generated}
	for i, col := range t.Table.Columns {
		name := pgsql.Quoted(col.Name)
		if binary && !t.Binary[i] {
			name += "::pg_catalog.text" // as pgoutput does with a type that has no binary format
			if table.Text == nil {
				table.Text = make([]bool, len(t.Table.Columns))
			}
			table.Text[i] = true
		}
		table.Columns = append(table.Columns, name)
	}
	return table
}

// Delivered notes that rows were delivered.
func (t *Table) Delivered(b Batch) {
	t.Rows.Add(int64(len(b.Rows)))
	t.Bytes.Add(b.bytes)
	if b.last {
		t.Left.Add(-1)
	}
}
