package walchan

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/walchan/walchan/internal/pgsql"
)

// Messages and rows print what they are about and never their data: whatever the verb, and in logs.

// format writes s for any verb, with its width and precision. %q quotes it.
func format(f fmt.State, verb rune, s string) {
	if verb != 'q' {
		verb = 's'
	}
	fmt.Fprintf(f, fmt.FormatString(f, verb), s)
}

// String describes the message for logs: kind, table, position. It never shows row data or a payload.
func (m Message) String() string {
	var b strings.Builder
	b.WriteString(m.Kind.String())
	if m.Relation != nil {
		b.WriteByte(' ')
		b.WriteString(m.Relation.String())
	}
	if tables := m.truncated(); tables != nil {
		b.WriteByte(' ')
		b.WriteString(strings.Join(tables, ", "))
	}
	if m.Tx != nil {
		fmt.Fprintf(&b, " xid %d", m.Tx.XID)
	}
	if p, ok := m.Position(); ok {
		fmt.Fprintf(&b, " at %s", p)
	} else if m.Kind != 0 {
		fmt.Fprintf(&b, " at %s", m.LSN)
	}
	return b.String()
}

// truncated returns the names of the tables that a Truncate has emptied.
func (m Message) truncated() []string {
	tables, _, _ := m.Truncated()
	return namesOf(tables)
}

func namesOf(tables []*Relation) (names []string) {
	for _, r := range tables {
		names = append(names, r.String())
	}
	return names
}

// Format prints the String for every verb of fmt.
func (m Message) Format(f fmt.State, verb rune) { format(f, verb, m.String()) }

// LogValue is the String, for log/slog.
func (m Message) LogValue() slog.Value { return slog.StringValue(m.String()) }

// String returns the table and the number of columns, "public.orders, 3 columns", and never values.
func (r Row) String() string {
	switch n := r.Len(); {
	case r.rel == nil:
		return "no row"
	case n == 1:
		return r.rel.String() + ", 1 column"
	default:
		return fmt.Sprintf("%s, %d columns", r.rel, n)
	}
}

// Format prints the String for every verb of fmt.
func (r Row) Format(f fmt.State, verb rune) { format(f, verb, r.String()) }

// LogValue is the String, for log/slog. Its JSONHandler shows values of rows that stand inside of other values, such as slices,
// because it marshals these.
func (r Row) LogValue() slog.Value { return slog.StringValue(r.String()) }

// String returns "xid 689 at 0/16C39F0", with the GID if there is one.
func (t Tx) String() string {
	if t.GID != "" {
		return fmt.Sprintf("xid %d, %q, at %s", t.XID, t.GID, t.CommitLSN)
	}
	return fmt.Sprintf("xid %d at %s", t.XID, t.CommitLSN)
}

// String returns the table's name, quoted where PostgreSQL wants it quoted.
func (r *Relation) String() string { return pgsql.Ident(r.Schema) + "." + pgsql.Ident(r.Name) }

// String returns the name, quoted where PostgreSQL wants it quoted, and the type: "id bigint".
func (c Column) String() string { return pgsql.Ident(c.Name) + " " + c.TypeName }

// LogValue is the text form, for log/slog, also where MarshalText fails.
func (c Checkpoint) LogValue() slog.Value { return slog.StringValue(c.String()) }
