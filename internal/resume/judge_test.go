package resume

import (
	"errors"
	"strings"
	"testing"
)

// The last transaction was committed at 0x100, and ended at 0x130.
var (
	half     = Point{Through: 0x80, Commit: 0x100, XID: 700, Time: 1, Ordinal: 3}
	complete = Point{Through: 0x130, Commit: 0x100, XID: 700, Time: 1, Ordinal: 3}
	idle     = Point{Through: 0x900, Commit: 0x100, XID: 700, Time: 1, Ordinal: 3} // after a Progress
	single   = Point{Through: 0x280, Message: 0x200, Commit: 0x100, XID: 700, Time: 1, Ordinal: 3}
	fresh    = Point{Through: 0x50}
)

func TestCheck(t *testing.T) {
	const two = "1\t0/180\tpromoted\n"
	for name, c := range map[string]struct {
		timeline int32 // of the point; 0: it was a standby
		point    Point
		server   Server
		history  string
		bound    LSN
		refused  string // "" if it is not
		passing  bool
	}{
		"the same":                              {1, complete, Server{Timeline: 1, Flushed: 0x1000}, "", 0x130, "", false},
		"WAL ends before the transaction":       {1, complete, Server{Timeline: 1, Flushed: 0x100}, "", 0, "ends at 0/100", false},
		"WAL ends after it":                     {1, idle, Server{Timeline: 1, Flushed: 0x140}, "", 0x140, "", false},
		"WAL ends before a message":             {1, single, Server{Timeline: 1, Flushed: 0x1FF}, "", 0, "ends at", false},
		"a standby that lags":                   {1, complete, Server{Timeline: 1, Flushed: 0x100, Recovery: true}, "", 0, "has come to", true},
		"a standby that lags behind Progress":   {1, idle, Server{Timeline: 1, Flushed: 0x140, Recovery: true}, "", 0, "has come to", true},
		"a standby that has it":                 {1, complete, Server{Timeline: 1, Flushed: 0x130, Recovery: true}, "", 0x130, "", false},
		"an older timeline":                     {2, complete, Server{Timeline: 1, Flushed: 0x1000}, "", 0, "behind 2", false},
		"forked after it":                       {1, complete, Server{Timeline: 2, Flushed: 0x1000}, two, 0x130, "", false},
		"forked before what was confirmed":      {1, idle, Server{Timeline: 2, Flushed: 0x1000}, two, 0x180, "", false},
		"forked before a message":               {1, single, Server{Timeline: 2, Flushed: 0x1000}, two, 0, "forked at 0/180", false},
		"forked at its beginning":               {1, complete, Server{Timeline: 2, Flushed: 0x1000}, "1\t0/100\t\n", 0, "forked at 0/100", false},
		"forked early, and WAL ends early":      {1, complete, Server{Timeline: 2, Flushed: 0x90}, "1\t0/80\t\n", 0, "forked at 0/80", false},
		"not in its history":                    {2, complete, Server{Timeline: 3, Flushed: 0x1000}, two, 0, "does not descend", false},
		"a standby may have been promoted":      {0, complete, Server{Timeline: 7, Flushed: 0x1000}, "", 0x130, "", false},
		"nothing was delivered, WAL ends early": {1, fresh, Server{Timeline: 1, Flushed: 0x40}, "", 0x40, "", false},
	} {
		bound, err := Check(Origin{Timeline: c.timeline}, c.point, c.point.Through, c.server, func() (string, error) { return c.history, nil })
		if c.refused == "" {
			if err != nil || bound != c.bound {
				t.Errorf("%s: %v, bound %s; want %s", name, err, bound, c.bound)
			}
			continue
		}
		r := (*Refusal)(nil)
		if !errors.As(err, &r) || r.Passing != c.passing || !strings.Contains(r.Text, c.refused) {
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
	}
}

func TestCheckWithoutAHistory(t *testing.T) {
	lost := errors.New("the connection is lost")
	_, err := Check(Origin{Timeline: 1}, complete, 0x130, Server{Timeline: 2, Flushed: 0x1000}, func() (string, error) { return "", lost })
	if !errors.Is(err, lost) {
		t.Errorf("error is %v", err)
	}
}

func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		point Point
		from  LSN
		same  bool
		want  Step
	}{
		"the slot is behind it":               {complete, 0x80, false, Expect},
		"the slot is at its record":           {complete, 0x100, false, Expect},
		"the slot is at its end":              {complete, 0x130, false, Prove},
		"the same server":                     {complete, 0x130, true, Deliver},
		"the same server, the slot is behind": {half, 0x80, true, Expect},
		"in its middle":                       {half, 0x80, false, Expect},
		"nothing was delivered":               {fresh, 0x50, false, Prove},
		"an old position":                     {Point{Commit: 0x100, Ordinal: 3}, 0x80, false, Deliver},
	} {
		if got := Next(c.point, c.from, c.same); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestPoint(t *testing.T) {
	for name, c := range map[string]struct {
		point            Point
		complete, covers bool // covers a transaction at 0x100
		needed           LSN
	}{
		"half":     {half, false, false, 0x101},
		"complete": {complete, true, true, 0x101},
		"single":   {single, true, true, 0x200},
		"fresh":    {fresh, true, false, 0},
	} {
		if c.point.IsComplete() != c.complete || c.point.Covers(0x100) != c.covers || c.point.Needed() != c.needed {
			t.Errorf("%s: complete %v, covers %v, needed %s", name, c.point.IsComplete(), c.point.Covers(0x100), c.point.Needed())
		}
	}
	if !half.Covers(0x90) {
		t.Error("a transaction before the last one is not covered")
	}
	for i, p := range []Point{fresh, half, complete, idle} {
		for j, q := range []Point{fresh, half, complete, idle} {
			if got := p.Compare(q); got != sign(i-j) {
				t.Errorf("%d and %d compare as %d", i, j, got)
			}
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }
