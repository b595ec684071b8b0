package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// verdictOf compares what was received, "a b | b c" for two lives, with what should have been.
func verdictOf(want, got string) verdict {
	c := newComparison(strings.Fields(want))
	for _, life := range strings.Split(got, "|") {
		c.take(seen{start: true})
		for _, s := range strings.Fields(life) {
			content, position, ok := strings.Cut(s, "@")
			if !ok {
				position = fmt.Sprintf("0/%X:1", content[0])
			}
			c.take(seen{position: position, content: content})
		}
	}
	c.ascending()
	return c.result(false)
}

// What a server that is dead has not sent any more is not missed, but all before it is. A consumer with checkpoints gets nothing
// again.
func TestComparePartly(t *testing.T) {
	for got, want := range map[string][3]int{ // lost, repeated, again
		"a b c":       {0, 0, 0},
		"a c":         {1, 0, 0},
		"a b | b c":   {0, 1, 0},
		"a b | c d e": {0, 0, 0},
	} {
		c := newComparison(strings.Fields("a b c d e"))
		c.once = true
		for _, s := range strings.Fields(got) {
			c.take(seen{start: s == "|" || c.Lives == 0})
			if s != "|" {
				c.take(seen{content: s, position: s})
			}
		}
		v := c.result(true)
		if have := [3]int{v.Lost, v.Repeated, v.Again}; have != want {
			t.Errorf("%q: %v, want %v", got, have, want)
		}
	}
}

func TestCompare(t *testing.T) {
	for got, want := range map[string]verdict{
		"a b c d e":             {Delivered: 5, Lives: 1},
		"a b c | b c d e":       {Delivered: 7, Lives: 2, Again: 2},
		"a b c | | d e":         {Delivered: 5, Lives: 3},
		"a b c | a b c d e | e": {Delivered: 9, Lives: 3, Again: 4},
		"":                      {Lives: 1, Lost: 5},
		"a b d e":               {Delivered: 4, Lives: 1, Lost: 1},
		"a b c d":               {Delivered: 4, Lives: 1, Lost: 1},
		"a b c | e":             {Delivered: 4, Lives: 2, Lost: 1},
		"a b c | a c d e":       {Delivered: 7, Lives: 2, Again: 2, Lost: 1}, // b was left out the second time
		"a b b c d e":           {Delivered: 6, Lives: 1, Repeated: 1},
		"a b c a b c d e":       {Delivered: 8, Lives: 1, Repeated: 3},
		"b a c d e":             {Delivered: 5, Lives: 1, Reordered: 1},
		"a b c | b a c d e":     {Delivered: 8, Lives: 2, Again: 2, Reordered: 1},
		"a b c d | c e | d e":   {Delivered: 8, Lives: 3, Again: 3, Lost: 1},
		"a b x c d e":           {Delivered: 6, Lives: 1, Invented: 1},
		"a b@0/0:7 c d e":       {Delivered: 5, Lives: 1, Misplaced: 1},
		"a b | b@0/99:7 c d e":  {Delivered: 6, Lives: 2, Again: 1, Misplaced: 1},
	} {
		v := verdictOf("a b c d e", got)
		if len(v.Complaints) != v.Lost+v.Repeated+v.Reordered+v.Invented+v.Misplaced || v.ok() != (len(v.Complaints) == 0) {
			t.Errorf("%q: %+v", got, v)
		}
		v.Complaints = nil
		if fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %+v\nwant %+v", got, v, want)
		}
	}
}

// A process that is killed may leave a line that is not complete.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	for life := range 3 {
		j, err := openJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		j.add(seen{position: "0/1:2", content: fmt.Sprintf("content %d", life)})
		if err := j.flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := j.file.WriteString("0/1:3\tcont"); err != nil {
			t.Fatal(err)
		}
		j.file.Close()
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end, err := completeLines(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(end)
	var got []string
	if err := readJournal(path, func(s seen) { got = append(got, fmt.Sprint(s)) }); err != nil {
		t.Fatal(err)
	}
	want := "[{  true} {0/1:2 content 0 false} {  true} {0/1:2 content 1 false} {  true} {0/1:2 content 2 false}]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

func TestReference(t *testing.T) {
	ref := newReference()
	p := parser{ref: ref}
	for _, line := range []string{
		"BEGIN 7",
		"table public.accounts: INSERT: id[bigint]:1 tx[bigint]:2 amount[numeric]:3.50 v[text]:'it''s [x]: y' note[text]:null",
		"table public.hidden: INSERT: id[bigint]:1 tx[bigint]:2",
		"table public.accounts: UPDATE: old-key: id[bigint]:1 new-tuple: id[bigint]:3 note[text]:unchanged-toast-datum",
		"table public.documents: UPDATE: old-key: id[bigint]:1 body[text]:'x' new-tuple: id[bigint]:1 body[text]:unchanged-toast-datum",
		"table public.accounts: DELETE: id[bigint]:3",
		"table public.scratch: TRUNCATE: (no-flags)",
		"message: transactional: 1 prefix: chaos, sz: 4 content:of 1",
		"table public.ledger: INSERT: tx[bigint]:2 changes[integer]:8",
		"message: transactional: 1 prefix: chaos, sz: 4 content:of 2",
		"COMMIT 7",
		"message: transactional: 0 prefix: chaos, sz: 6 content:beside",
		"BEGIN 8",
		"table public.hidden: INSERT: id[bigint]:2 tx[bigint]:2",
		"COMMIT 8",
	} {
		if err := p.line("0/1A", line); err != nil {
			t.Fatal(err)
		}
	}
	want := `7 BEGIN
7 INSERT public.accounts id=1 tx=2 amount=3.50 v=it's [x]: y note=null
7 UPDATE public.accounts old id=1 id=3 note=unchanged-toast-datum
7 UPDATE public.documents old id=1 body=x id=1 body=x
7 DELETE public.accounts old id=3
7 TRUNCATE public.scratch
7 MESSAGE chaos of 1
7 INSERT public.ledger tx=2 changes=8
7 MESSAGE chaos of 2
7 COMMIT 0/1A
0 MESSAGE chaos beside`
	if got := strings.Join(ref.published, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	effects := []effect{{},
		{row: "accounts 1", version: "1 2 it's [x]: y", record: "accounts id=1 tx=2 amount=3.50 v=it's [x]: y note=null"},
		{gone: "accounts 1", row: "accounts 3", version: "3  ", record: "accounts id=3"},
		{row: "documents 1", version: "1  ", record: "documents id=1 body=x"},
		{gone: "accounts 3"}, {truncate: "scratch"}, {},
		{row: "ledger 2", version: "2 8", record: "ledger tx=2 changes=8"}, {}, {}, {}}
	if !slices.Equal(ref.effects, effects) {
		t.Errorf("effects are\n%q\nnot\n%q", ref.effects, effects)
	}
	if len(ref.raw) != 15 || ref.raw[6] != "7 table public.scratch: TRUNCATE: (no-flags)" || ref.ledger["2"].changes != 8 || ref.end != 0x1A {
		t.Errorf("%d raw, %q; ledger %v, end %s", len(ref.raw), ref.raw[6], ref.ledger, ref.end)
	}
	for _, line := range []string{"something", "table public.t: INSERT: id", "table public.t: INSERT: v[text]:'open", "message: transactional: 1"} {
		if p.line("0/1A", line) == nil {
			t.Errorf("understood: %q", line)
		}
	}
}
