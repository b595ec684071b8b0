package pgoutput

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func columns(block string, n int) string {
	var all []string
	for i := range n {
		kind, v := Column(block, n, i)
		all = append(all, fmt.Sprintf("%c%q", kind, v))
	}
	return strings.Join(all, " ")
}

func TestCopyLine(t *testing.T) {
	for _, test := range []struct {
		line string
		n    int
		want string // "": malformed
	}{
		{"1\tx\n", 2, `t"1" t"x"`},
		{"\t\n", 2, `t"" t""`},
		{"\\N\t\\\\N\tN\n", 3, `n"" t"\\N" t"N"`},
		{`a\tb\nc\rd\\e\bf\fg\vh` + "\n", 1, `t"a\tb\nc\rd\\e\bf\fg\vh"`},
		{`\\\\` + "\t" + `x\\` + "\n", 2, `t"\\\\" t"x\\"`},
		{"\n", 1, `t""`},
		{"x", 1, `t"x"`},
		{"1\t2\n", 1, ""},
		{"1\n", 2, ""},
		{"x\n", 0, ""},
		{"x\\\n", 1, ""},
	} {
		c := CopyRows{Columns: test.n}
		block, err := c.Line([]byte(test.line))
		if (err != nil) != (test.want == "") {
			t.Errorf("%q: %v", test.line, err)
		} else if err == nil && (columns(block, test.n) != test.want || TupleKind(block, test.n) != 'N') {
			t.Errorf("%q is %s, want %s", test.line, columns(block, test.n), test.want)
		}
	}
	c := CopyRows{}
	if block, err := c.Line([]byte("\n")); err != nil || TupleKind(block, 0) != 'N' {
		t.Errorf("a row without columns: %v", err)
	}
}

func TestCopyBinary(t *testing.T) {
	header := "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x02xx"
	row := "\x00\x02\x00\x00\x00\x01a\xff\xff\xff\xff"
	trailer := "\xff\xff"
	c := CopyRows{Columns: 2, Text: []bool{true, false}}
	var got []string
	add := func(block string) error {
		got = append(got, columns(block, 2))
		return nil
	}
	for _, b := range []string{header + row, row + row, "\x00\x02\x00\x00\x00\x00\x00\x00\x00\x02bc", trailer} {
		if err := c.Binary([]byte(b), add); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
	}
	if want := `t"a" n""; t"a" n""; t"a" n""; t"" b"bc"`; strings.Join(got, "; ") != want {
		t.Errorf("%s, want %s", strings.Join(got, "; "), want)
	}
	full := header + row + trailer
	for n := 1; n < len(full); n++ {
		c := CopyRows{Columns: 2}
		whole := n == len(header) || n == len(header+row)
		if err := c.Binary([]byte(full[:n]), func(string) error { return nil }); (err == nil) != whole {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	stop := errors.New("stop")
	if err := (&CopyRows{Columns: 2}).Binary([]byte(full), func(string) error { return stop }); err != stop {
		t.Errorf("%v, want the error of the one who takes the rows", err)
	}
}

// A row costs one allocation.
func TestCopyLineAllocates(t *testing.T) {
	c := CopyRows{Columns: 3}
	line := []byte("12345\tsome text\\\\ with\t\\N\n")
	if n := testing.AllocsPerRun(100, func() { c.Line(line) }); n != 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}

// FuzzCopy reads any bytes as rows of COPY, in both formats: there is no panic, every column of a row that is taken can be read, and
// no more memory is used than the bytes, the columns and a little.
func FuzzCopy(f *testing.F) {
	f.Add([]byte("1\tx\n"), 2)
	f.Add([]byte("\\N\t\\\\N\tN\n"), 3)
	f.Add([]byte(`a\tb\nc\rd\\e\bf\fg\vh`+"\n"), 1)
	f.Add([]byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x02xx\x00\x02\x00\x00\x00\x01a\xff\xff\xff\xff\xff\xff"), 2)
	f.Add([]byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x7f\xff\xff\xff"), 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 1600 { // what a table can have
			return
		}
		row := func(block string) error {
			if want := len(b) + 3 + 5*n + TableSize(n); len(block) > want {
				t.Fatalf("a block of %d bytes, from %d", len(block), len(b))
			}
			columns(block, n)
			return nil
		}
		lines, blocks := CopyRows{Columns: n}, CopyRows{Columns: n}
		if block, err := lines.Line(b); err == nil {
			row(block)
		}
		blocks.Binary(b, row)
	})
}
