package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walchan/walchan"
)

// Checkpoints of the end of a snapshot and of two transactions, by the position of each.
var checkpointTexts = map[string]string{
	"0/1": "wc1:1:d:s:1:5:0/1:0/0:0:0:0:00000000:49F6A3A4",
	"0/2": "wc1:1:d:s:1:5:0/2:0/2:1:0:1:00000000:11DE97ED",
	"0/3": "wc1:1:d:s:1:5:0/3:0/3:2:0:1:00000000:EBA3315C",
}

// Behind the last checkpoint there may be many rows without one, and a line that is not complete.
func TestLastCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kept")
	for content, want := range map[string]string{
		"":                                "",
		"\n":                              "",
		"\nnone yet\t\t\n":                "none yet",
		"\na\t0/1:1\tx\nb\t0/1:2\ty\n\n":  "b",
		"\na\t0/1:1\tx\n-\tt 1\tREAD 1\n": "a",
		"\na\t0/1:1\tx\n" + strings.Repeat("-\tt 1\tREAD 1\n", 200_000): "a",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := lastCheckpoint(path); got != want || err != nil {
			t.Errorf("%.40q: %q, %v, want %q", content, got, err, want)
		}
	}
}

// Three transactions, of which each says what it is. The target begins with the rows of the first one.
func keptReference() *reference {
	ref := newReference()
	p := parser{ref: ref}
	for i := range 3 {
		lsn := fmt.Sprintf("0/%d", i+1)
		for _, line := range []string{fmt.Sprintf("BEGIN %d", i), fmt.Sprintf("table public.marker: INSERT: id[integer]:%d", i), fmt.Sprintf("COMMIT %d", i)} {
			if err := p.line(lsn, line); err != nil {
				panic(err)
			}
		}
	}
	return ref
}

func TestCompareKept(t *testing.T) {
	ref := keptReference()
	read, end := "-\tmarker 0\tREAD 0\n", checkpointTexts["0/1"]+"\t\tSNAPSHOT END\n"
	second, third := checkpointTexts["0/2"]+"\t0/2:1\t1 INSERT public.marker id=1\n", checkpointTexts["0/3"]+"\t0/3:1\t2 INSERT public.marker id=2\n"
	begin := "-\t\tSNAPSHOT\n"
	for content, want := range map[string]verdict{
		begin + read + end + second + third:                                       {Delivered: 3, Lives: 1},
		begin + read + "\n" + begin + read + end + second + third:                 {Delivered: 3, Lives: 1}, // it was killed among the rows
		begin + read + end + second + "\n" + third:                                {Delivered: 3, Lives: 2},
		begin + read + end + second + "\n" + second + third:                       {Delivered: 4, Lives: 2, Repeated: 1},
		begin + read + end + third:                                                {Delivered: 2, Lives: 1, Lost: 1},
		begin + end + second + third:                                              {Delivered: 2, Lives: 1, Lost: 1},
		begin + read + read + end + second + third:                                {Delivered: 4, Lives: 1, Repeated: 1},
		begin + strings.Replace(read, "0", "7", 2) + end + second + third:         {Delivered: 3, Lives: 1, Lost: 1, Invented: 1},
		begin + read + end + second + strings.Replace(third, "0/3:1", "0/3:2", 1): {Delivered: 3, Lives: 1, Misplaced: 1},
	} {
		path := filepath.Join(t.TempDir(), "kept")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		v, _, err := compareKept(path, func(from walchan.LSN) due {
			return due{reference: ref.after(from), base: ref.cut(from).rows()}
		})
		complaints := v.Complaints
		v.Complaints = nil
		if err != nil || fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %+v, %v\nwant %+v\n%q", content, v, err, want, complaints)
		}
	}
}

// What a server has is cut where its successor has left its history, and joined with what that has.
func TestSuccession(t *testing.T) {
	ref := keptReference()
	ref.ledger["a"], ref.ledger["b"] = noted{1, 2}, noted{1, 3}
	for at, want := range map[walchan.LSN][2]int{0: {0, 9}, 1: {3, 6}, 2: {6, 3}, 3: {9, 0}, 99: {9, 0}} {
		cut, after := ref.cut(at), ref.after(at)
		if len(cut.published) != want[0] || len(after.published) != want[1] || len(cut.raw) != want[0] || len(after.raw) != want[1] {
			t.Errorf("at %s: %d and %d, raw %d and %d", at, len(cut.published), len(after.published), len(cut.raw), len(after.raw))
		}
		if joined := cut.join(after); strings.Join(joined.published, "\n") != strings.Join(ref.published, "\n") || joined.end != ref.end {
			t.Errorf("at %s: %q", at, joined.published)
		}
	}
	if n := len(ref.cut(2).ledger); n != 1 {
		t.Errorf("%d transactions have ended", n)
	}
	if rows := ref.cut(2).rows(); len(rows) != 2 || rows["marker 1"] != "1" {
		t.Errorf("rows are %v", rows)
	}
}
