package begin

import (
	"errors"
	"testing"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// What an answer means depends on where the slot stands, and on what is asked for.
func TestPastIsJudged(t *testing.T) {
	last := resume.Point{Through: 0x110, Commit: 0x100, XID: 7}
	for _, test := range []struct {
		name                  string
		point                 resume.Point
		is                    YesNo
		confirmed             wal.LSN
		checkpoints, required bool

		doubt bool
		kind  error
	}{
		{name: "the server has it", point: last, is: Yes, required: true},
		{name: "the server has another", point: last, is: No, confirmed: 0x110, kind: walerr.Diverged},
		{name: "the slot stands there", point: last, confirmed: 0x110, required: true},
		{name: "the slot stands where it was told", point: last, confirmed: 0x120, required: true},
		{name: "it stands elsewhere", point: last, confirmed: 0x80, doubt: true},
		{name: "it stands elsewhere, and a proof is asked for", point: last, confirmed: 0x80, required: true, kind: walerr.Unproven},
		{name: "nothing was delivered", confirmed: 0x80},
		{name: "nothing was delivered since the checkpoint", confirmed: 0x80, checkpoints: true, doubt: true},
	} {
		p := Past{Point: test.point, Told: []wal.LSN{0x120}}
		verdict, err := p.judge(Answer{Is: test.is, By: "its answer"}, test.confirmed, test.checkpoints, test.required)
		if !errors.Is(err, test.kind) || verdict.Doubt != test.doubt {
			t.Errorf("%s: doubt %v, %v", test.name, verdict.Doubt, err)
		}
	}
}

// A place on a timeline that has ended lies on the one after it, or the stream cannot go on.
func TestPlaceIsLocated(t *testing.T) {
	const history = "1\t0/1000080\tno recovery target specified\n"
	whole := func(lsn wal.LSN) wal.LSN { return lsn - lsn%0x1000000 }
	system := session.System{Timeline: 2, Flushed: 0x2000000}
	for _, test := range []struct {
		name     string
		at, want Place
		standby  bool
		kind     error
	}{
		{name: "before the fork", at: Place{0x1000000, 1}, want: Place{0x1000000, 1}},
		{name: "at the fork", at: Place{0x1000080, 1}, want: Place{0x1000000, 2}},
		{name: "behind the fork", at: Place{0x1000081, 1}, kind: walerr.Diverged},
		{name: "on a timeline of another history", at: Place{0x1000000, 3}, kind: walerr.Diverged},
		{name: "at the end", at: Place{0x2000000, 2}, want: Place{0x2000000, 2}},
		{name: "behind the end", at: Place{0x2000001, 2}, kind: walerr.Diverged},
		{name: "where a standby has not come to yet", at: Place{0x2000001, 2}, standby: true, kind: walerr.ServerDown},
	} {
		got, err := test.at.Locate(system, history, test.standby, whole)
		if !errors.Is(err, test.kind) || err == nil && got != test.want {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
}
