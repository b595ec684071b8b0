package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
)

// newPrinter returns what prints a message: as a plugin wrote it, as JSON, or for people.
func newPrinter(f flags, out *os.File) func(walchan.Message) error {
	switch {
	case f.plugin != "":
		return func(m walchan.Message) error {
			_, err := fmt.Fprintln(out, m.Payload())
			return err
		}
	case f.json:
		return jsonPrinter(out)
	}
	p := &printer{out: out, color: isTerminal(out) && os.Getenv("NO_COLOR") == "", width: len("customers")}
	return p.print
}

const (
	alike   = 5  // of more rows of one kind in succession the rest is only counted
	longest = 28 // characters of a value that are shown

	layout = "%-12s  %6s" // of the transaction's columns
)

// Styles: parameters of the escape sequence "select graphic rendition".
const (
	plain   = ""
	dim     = "2"
	red     = "31"
	green   = "32"
	yellow  = "33"
	magenta = "35"
	cyan    = "36"
)

var styles = map[walchan.Kind]string{
	walchan.Insert:         green,
	walchan.Update:         yellow,
	walchan.Delete:         red,
	walchan.Truncate:       magenta,
	walchan.LogicalMessage: cyan,
}

// printer prints messages for people, in columns. When a transaction was committed, and its number, stand beside its first
// change.
type printer struct {
	out   io.Writer
	color bool
	width int // of the column of tables: grows

	line strings.Builder
	last walchan.Message // zero: none yet
	run  int             // messages like last in succession
}

func (p *printer) print(m walchan.Message) error {
	p.line.Reset()
	if p.last.Kind == 0 {
		p.add(dim, fmt.Sprintf(layout+"  %-8s  %-*s  %s", "committed", "xid", "change", p.width, "table", "row"))
		p.add(plain, "\n")
	}
	if m.Tx == p.last.Tx && m.Kind == p.last.Kind && m.Relation == p.last.Relation && m.Relation != nil {
		p.run++
	} else {
		p.rest()
		p.run = 1
	}
	if p.run <= alike && m.Kind != walchan.Begin && m.Kind != walchan.Commit {
		p.message(m)
	}
	p.last = m
	_, err := io.WriteString(p.out, p.line.String())
	return err
}

// rest says how many messages were left out.
func (p *printer) rest() {
	if p.run > alike {
		p.gutter(nil)
		p.add(dim, fmt.Sprintf("… and %d more", p.run-alike))
		p.add(plain, "\n")
	}
}

func (p *printer) message(m walchan.Message) {
	if p.last.Tx == m.Tx && p.last.Kind != walchan.Begin {
		p.gutter(nil)
	} else {
		p.gutter(m.Tx)
	}
	p.cell(styles[m.Kind], m.Kind.String(), len("truncate"))
	switch m.Kind {
	case walchan.Truncate:
		p.truncate(m)
	case walchan.LogicalMessage:
		p.table(m.Prefix())
		p.add(plain, quote(m.Payload()))
	default:
		p.table(name(m.Relation))
		p.row(m)
	}
	p.add(plain, "\n")
}

func (p *printer) gutter(tx *walchan.Tx) {
	at, xid := "", ""
	if tx != nil {
		at, xid = tx.CommitTime.Local().Format("15:04:05.000"), fmt.Sprint(tx.XID)
	}
	p.add(dim, fmt.Sprintf(layout+"  ", at, xid))
}

func (p *printer) table(s string) {
	p.width = max(p.width, utf8.RuneCountInString(s))
	p.cell(plain, s, p.width)
}

func (p *printer) truncate(m walchan.Message) {
	tables, cascade, restart := m.Truncated()
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = name(t)
	}
	p.add(plain, strings.Join(names, ", "))
	if cascade {
		p.add(dim, "  cascade")
	}
	if restart {
		p.add(dim, "  restart identity")
	}
}

// row prints the columns. Dim are those without a value, and of an update those that are known to be as before.
func (p *printer) row(m walchan.Message) {
	row, old := m.New(), m.Old()
	if m.Kind == walchan.Delete {
		row, old = m.Old(), walchan.Row{}
	}
	gap := ""
	for i, c := range m.Relation.Columns {
		if row.State(i) == walchan.NotSent {
			continue
		}
		p.add(dim, gap+c.Name+"=")
		gap = "  "
		style, now := plain, value(row, i)
		if row.State(i) != walchan.Text {
			style = dim
		}
		if old.Len() > 0 && old.State(i) != walchan.NotSent {
			if was := value(old, i); was == now {
				style = dim
			} else {
				p.add(dim, was+" → ")
			}
		}
		p.add(style, now)
	}
}

// cell adds s and fills up to width, and two blanks.
func (p *printer) cell(style, s string, width int) {
	p.add(style, s)
	p.add(plain, strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0)+2))
}

func (p *printer) add(style, s string) {
	if p.color && style != plain && s != "" {
		s = "\x1b[" + style + "m" + s + "\x1b[0m"
	}
	p.line.WriteString(s)
}

// value returns column i much as SQL has it.
func value(r walchan.Row, i int) string {
	switch r.State(i) {
	case walchan.Null:
		return "null"
	case walchan.Text:
		switch r.Relation().Columns[i].TypeOID {
		case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID:
			return quote(r.Text(i))
		}
		return shorten(r.Text(i))
	}
	return "(" + r.State(i).String() + ")"
}

func quote(s string) string { return "'" + shorten(s) + "'" }

// shorten cuts what is too long, and escapes what a terminal could take for a command.
func shorten(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
		s = s[1 : len(s)-1]
	}
	if r := []rune(s); len(r) > longest {
		s = string(r[:longest-1]) + "…"
	}
	return s
}

// name leaves out the schema that is everybody's.
func name(r *walchan.Relation) string { return strings.TrimPrefix(r.String(), "public.") }
