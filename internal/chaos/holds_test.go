package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Records of what rowsOfTheTest has, "partition row line position producer", of which P stands for the last.
const (
	first  = "0 1:a r1 0/1:0 P; 0 1:a r2 0/1:1 P; "
	second = "1 1:b r3 0/1:2 P; 0 2:t r4 0/1:3 P; "
	third  = "1 1:b gone 0/1:5 P; 0 1:c r5 0/1:5 P; 0 1:a gone 0/1:7 P; "
)

func TestJudgeRecords(t *testing.T) {
	process := func(id, records string) string { return strings.ReplaceAll(records, "P", id) }
	for records, want := range map[string]verdict{
		process("1", first+second+third):                                                                  {Delivered: 7},
		process("1", first+second) + process("2", first+second+third):                                     {Delivered: 11, Again: 4},
		process("1", first+second) + process("2", second+third):                                           {Delivered: 9, Again: 2},
		process("1", first+second) + process("2", first+second+third) + process("1", first):               {Delivered: 13, Again: 6, Late: 1},
		process("1", first+second+first+third):                                                            {Delivered: 9, Repeated: 2},
		process("1", second+"0 1:a r2 0/1:1 P; 0 1:a r1 0/1:0 P; "+third):                                 {Delivered: 7, Reordered: 1},
		process("1", first+second+strings.TrimSuffix(third, "0 1:a gone 0/1:7 P; ")):                      {Delivered: 6, Lost: 1, Reordered: 1},
		process("1", first+third):                                                                         {Delivered: 5, Lost: 2, Reordered: 1},
		process("1", first+second+third) + process("2", "0 1:a r2 0/1:1 P; "):                             {Delivered: 8, Again: 1, Reordered: 1},
		process("1", first+second+third) + process("2", first+"0 1:c r5 0/1:5 P; ") + process("3", third): {Delivered: 13, Again: 6},
		process("1", first+second+third) + process("2", "0 1:a r1 0/1:0 P; 0 1:c r5 0/1:5 P; "):           {Delivered: 9, Again: 2, Lost: 1, Reordered: 1},
	} {
		got := map[partition][]record{}
		for s := range strings.SplitSeq(strings.TrimSuffix(records, "; "), "; ") {
			var p partition
			var r record
			fmt.Sscan(s, &p.number, &r.row, &r.line, &r.position, &r.producer)
			r.row = strings.Replace(r.row, ":", " ", 1)
			r.line = strings.Replace(r.line, "gone", r.row+" gone", 1)
			p.topic = r.row[:1]
			got[p] = append(got[p], r)
		}
		v, err := judgeRecords(due{reference: rowsOfTheTest()}, got)
		complaints := v.Complaints
		v.Complaints = nil
		if err != nil || fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %+v, %v\nwant %+v\n%q", records, v, err, want, complaints)
		}
	}
}

func TestRowInTwoPartitions(t *testing.T) {
	v, err := judgeRecords(due{reference: &reference{}}, map[partition][]record{{"1", 0}: {{row: "1 a", position: "0/1:0"}}, {"1", 1}: {{row: "1 a", position: "0/1:1"}}})
	if v.Misplaced != 1 || err != nil {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestDescribeRecord(t *testing.T) {
	for _, test := range []struct{ key, value, row, line string }{
		{`{"id":7}`, "", "t 7", "t 7 gone"},
		{`{"id":7}`, `{"id":7,"amount":3.50,"v":"it's \"x\"","at":"2026-01-02T03:04:05.6+00:00","note":null}`, "t 7", `t id=7 amount=3.50 v=it's "x" at=2026-01-02 03:04:05.6+00 note=null`},
		{"", `{"id":7,"tx":8}`, "t 7", "t id=7 tx=8"},
		{"", `{"id":`, "", ""},
		{"", "", "", ""},
	} {
		r := &kgo.Record{Topic: "t"}
		if test.key != "" {
			r.Key = []byte(test.key)
		}
		if test.value != "" {
			r.Value = []byte(test.value)
		}
		if row, line, err := describeRecord(r); row != test.row || line != test.line || (err != nil) != (row == "") {
			t.Errorf("%s %s: %q, %q, %v", test.key, test.value, row, line, err)
		}
	}
}

func TestCompareFiles(t *testing.T) {
	for files, want := range map[string]verdict{
		"1\t0/1:1\ta\n1\t0/1:2\tb\n|1\t0/1:3\tc\n":              {Delivered: 3, Lives: 1},
		"1\t0/1:1\ta\n1\t0/1:2\tb\n|2\t0/1:2\tb\n2\t0/1:3\tc\n": {Delivered: 4, Lives: 2, Again: 1},
		"1\t0/1:1\ta\n1\t0/1:2\tb\n|1\t0/1:2\tb\n1\t0/1:3\tc\n": {Delivered: 4, Lives: 1, Repeated: 1},
		"1\t0/1:1\ta\n|1\t0/1:3\tc\n":                           {Delivered: 2, Lives: 1, Lost: 1},
	} {
		path := filepath.Join(t.TempDir(), "files.journal")
		for i, content := range strings.Split(files, "|") {
			if err := os.WriteFile(fmt.Sprintf("%s-%06d.journal", strings.TrimSuffix(path, ".journal"), i+1), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		v, err := compareFiles(due{reference: &reference{published: []string{"a", "b", "c"}}}, path)
		v.Complaints = nil
		if err != nil || fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", files, v, err, want)
		}
		if err := os.WriteFile(strings.TrimSuffix(path, ".journal")+"-000009.journal", []byte("1\t0/1:4\tpart"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := compareFiles(due{reference: &reference{published: []string{"a", "b", "c"}}}, path); err == nil {
			t.Error("a line that is torn was not noticed")
		}
	}
}
