package main

import (
	"fmt"
	"strings"
	"testing"
)

// Two transactions: "1 a" comes and changes, "1 b" comes, "2 t" comes; then "1 b" moves to "1 c", the table 2 is emptied, and "1 a" goes.
func rowsOfTheTest() *reference {
	return &reference{effects: []effect{
		{row: "1 a", version: "a1", record: "r1"}, {row: "1 a", version: "a2", record: "r2"}, {row: "1 b", version: "b1", record: "r3"},
		{row: "2 t", version: "t1", record: "r4"}, {},
		{gone: "1 b", row: "1 c", version: "c1", record: "r5"}, {truncate: "2"}, {gone: "1 a"}, {},
	}}
}

func TestCompareRows(t *testing.T) {
	positions := make([]string, 9)
	for i := range positions {
		positions[i] = fmt.Sprintf("0/1:%d", i)
	}
	batch1 := "INSERT 1 a a2; INSERT 1 b b1; INSERT 2 t t1; POSITION 4; "
	batch2 := "DELETE 1 b; INSERT 1 c c1; TRUNCATE 2; DELETE 1 a; POSITION 8"
	for events, want := range map[string]verdict{
		batch1 + batch2: {Delivered: 7},
		// One by one, as after a refusal, and with batches of one.
		"INSERT 1 a a1; POSITION 0; UPDATE 1 a a2; POSITION 1; INSERT 1 b b1; INSERT 2 t t1; POSITION 3; " + batch2: {Delivered: 8},
		// All in one: what came and went left nothing.
		"INSERT 1 c c1; TRUNCATE 2; POSITION 8": {Delivered: 2},

		batch1: {Delivered: 3, Lost: 1, Invented: 3},
		batch1 + "DELETE 1 b; INSERT 1 c c1; DELETE 1 a; POSITION 8":                                  {Delivered: 6, Invented: 1},              // no truncate
		batch1 + "UPDATE 1 a a1; " + batch2:                                                           {Delivered: 8},                           // gone again, in the same batch
		batch1 + "NOTHING 1 a; " + batch2:                                                             {Delivered: 8, Repeated: 1},              // an upsert again
		batch1 + "INSERT 2 t t1; " + batch2:                                                           {Delivered: 8, Repeated: 1},              // of a table without key
		batch1 + "INSERT 2 t t1; POSITION 4; " + batch2:                                               {Delivered: 8, Repeated: 2},              // a batch again
		batch1 + batch2 + "; INSERT 1 a a2; POSITION 4":                                               {Delivered: 8, Repeated: 1, Invented: 1}, // an old state
		batch1 + batch2 + "; INSERT 1 a a2":                                                           {Delivered: 8, Invented: 2},              // written after the end, without a position
		"INSERT 1 a a1; INSERT 1 b b1; INSERT 2 t t1; POSITION 4; " + batch2:                          {Delivered: 7, Lost: 1},                  // an older state
		"INSERT 1 a a2; INSERT 2 t t1; POSITION 4; INSERT 1 c c1; TRUNCATE 2; DELETE 1 a; POSITION 8": {Delivered: 5, Lost: 1},
		"INSERT 1 a a2; INSERT 1 b b1; INSERT 2 t t1; POSITION 9; POSITION 4; " + batch2:              {Delivered: 7, Invented: 1},
	} {
		c := newRowComparison(rowsOfTheTest(), nil, positions)
		for _, s := range strings.Split(strings.TrimSuffix(events, "; "), "; ") {
			words := strings.Fields(s)
			switch op := words[0]; {
			case op == "POSITION":
				c.take(event{op: op, version: "0/1:" + words[1]})
			case len(words) == 4:
				c.take(event{op, words[1] + " " + words[2], words[3]})
			default:
				c.take(event{op: op, row: strings.Join(words[1:], " ")})
			}
		}
		got := c.result()
		complaints := got.Complaints
		got.Complaints = nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %+v\nwant %+v\n%q", events, got, want, complaints)
		}
	}
}
