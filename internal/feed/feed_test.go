package feed

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/walchan/walchan/internal/backfill"
	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

var items = fakewal.Relation{OID: 1, Schema: "public", Name: "items", Columns: []fakewal.Column{{Name: "id", Type: 23}}}

// transaction is what the server sends of one that inserts rows.
func transaction(xid uint32, commit wal.LSN, rows ...string) (frames []session.Frame) {
	var changes [][]byte
	for _, r := range rows {
		changes = append(changes, fakewal.Insert(1, r))
	}
	for _, f := range (fakewal.Tx{XID: xid, First: commit - 0x80, Commit: commit, End: commit + 0x10, Changes: changes}).Frames() {
		frames = append(frames, session.Frame{Start: f.Start, Data: f.Payload})
	}
	return frames
}

// described is what the server sends of the table before its first row on each connection.
var described = []session.Frame{{Data: items.Encode()}}

func keepalive(end wal.LSN) session.Frame { return session.Frame{Keepalive: true, End: end} }

// play gives frames to a feed, does what it asks for, and returns that, a line each.
func play(f Feed, frames ...session.Frame) (lines []string, err error) {
	turn := &Turn{}
	for i := range frames {
		for a, err := f.Next(&frames[i], turn); a != NextFrame || err != nil; a, err = f.Next(nil, turn) {
			if err != nil {
				return lines, err
			}
			lines = append(lines, show(a, turn))
			if a == DeliverLast || a == Repeat || a == Finish {
				break
			}
		}
	}
	return lines, nil
}

func show(a Act, t *Turn) string {
	switch a {
	case Deliver, DeliverLast:
		it := t.Item
		var b strings.Builder
		switch it.Kind {
		case Insert:
			_, value := pgoutput.Column(it.Data, 1, 0)
			fmt.Fprintf(&b, "%s %s", it.Table.Name, value)
		case Begin:
			b.WriteString("begin")
		case Commit:
			b.WriteString("commit")
		default:
			b.WriteString(it.Data)
		}
		if it.Tx != nil {
			fmt.Fprintf(&b, " of %d at %d", it.Tx.XID, it.Ordinal)
			if it.Tx.Redelivered {
				b.WriteString(" again")
			}
		}
		if end := EndOf(it.Ext); end != 0 {
			fmt.Fprintf(&b, ", ends at %s", end)
		}
		return b.String()
	case Settle:
		t.Confirmed = t.Confirm
		return fmt.Sprintf("settle %s", t.Received)
	case IsBetween:
		return fmt.Sprintf("between at %s", t.Received)
	case Describe:
		return "describe " + t.Table.Name
	case AskServer:
		return fmt.Sprintf("ask for %d", t.Trial.XID)
	case AcceptServer:
		return "accept, because " + t.Because
	case Repeat:
		return "repeat"
	case Finish:
		return "finish"
	}
	return fmt.Sprintf("act %d", a)
}

func wantPlayed(t *testing.T, f Feed, frames []session.Frame, want ...string) {
	t.Helper()
	got, err := play(f, frames...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func newChanges(o Options) *Changes {
	o.Reading = &atomic.Pointer[backfill.Notes]{}
	return connected(NewChanges(o))
}

// connected is a feed with a new connection.
func connected[F Feed](f F) F {
	f.Disconnected()
	f.Connected(Beginning{Until: ^wal.LSN(0), Source: &resume.Source{}, Flow: &link.Flow{}})
	return f
}

func TestChanges(t *testing.T) {
	frames := slices.Concat(described, transaction(700, 0x100, "1", "2"), []session.Frame{keepalive(0x180)})
	t.Run("by themselves", func(t *testing.T) {
		wantPlayed(t, newChanges(Options{}), frames, "describe items", "items 1 of 700 at 2", "items 2 of 700 at 3", "settle 0/110")
	})
	t.Run("with Begin and Commit", func(t *testing.T) {
		wantPlayed(t, newChanges(Options{Transactions: true}), frames,
			"describe items", "begin of 700 at 1", "items 1 of 700 at 2", "items 2 of 700 at 3", "commit of 700 at 4, ends at 0/110", "settle 0/110")
	})
	t.Run("with checkpoints", func(t *testing.T) { // the last one says that it is the last one
		wantPlayed(t, newChanges(Options{Checkpoints: true}), frames,
			"describe items", "items 1 of 700 at 2", "items 2 of 700 at 3, ends at 0/110", "settle 0/110", "between at 0/180")
	})
}

// After a reconnect the server sends everything again.
func TestChangesRecogniseWhatWasDelivered(t *testing.T) {
	first, second, third := transaction(700, 0x100, "1"), transaction(701, 0x200, "2", "3"), transaction(702, 0x300, "4")
	begun := func(t *testing.T) *Changes {
		f := newChanges(Options{})
		wantPlayed(t, f, slices.Concat(described, first, second[:2]), "describe items", "items 1 of 700 at 2", "settle 0/110", "items 2 of 701 at 2")
		return connected(f)
	}
	t.Run("the rest", func(t *testing.T) {
		wantPlayed(t, begun(t), slices.Concat(described, first, second), "describe items", "settle 0/110", "items 3 of 701 at 3", "settle 0/210")
	})
	t.Run("what was not delivered after all", func(t *testing.T) {
		f := begun(t)
		wantPlayed(t, f, slices.Concat(described, second, third[:2]), "describe items", "items 3 of 701 at 3", "settle 0/210", "items 4 of 702 at 2")
		f.TakeBack()
		wantPlayed(t, connected(f), slices.Concat(described, third), "describe items", "items 4 of 702 at 2", "settle 0/310")
	})
	t.Run("another row", func(t *testing.T) {
		f := begun(t)
		other := slices.Concat(described, transaction(701, 0x200, "other", "3"))
		wantPlayed(t, f, other[:3], "describe items", "repeat")
		wantPlayed(t, connected(f), other, "describe items", "items other of 701 at 2 again", "items 3 of 701 at 3 again", "settle 0/210")
	})
}

// The server's history is that of the last transaction, or it is another one.
func TestChangesOnTrial(t *testing.T) {
	last, next := transaction(700, 0x100, "1"), transaction(701, 0x200, "2")
	begun := func(t *testing.T) *Changes {
		f := newChanges(Options{})
		wantPlayed(t, f, slices.Concat(described, last), "describe items", "items 1 of 700 at 2", "settle 0/110")
		f.Try(&Trial{Past: begin.Past{Point: f.Delivered()}})
		return connected(f)
	}
	t.Run("it comes again", func(t *testing.T) {
		wantPlayed(t, begun(t), slices.Concat(described, last, next), "describe items", "accept, because the last transaction came again", "settle 0/110", "items 2 of 701 at 2", "settle 0/210")
	})
	t.Run("it does not", func(t *testing.T) {
		wantPlayed(t, begun(t), slices.Concat(described, next), "describe items", "ask for 700", "items 2 of 701 at 2", "settle 0/210")
	})
	t.Run("it is another one", func(t *testing.T) {
		if _, err := play(begun(t), transaction(999, 0x100, "1")...); !errors.Is(err, walerr.Diverged) {
			t.Error(err)
		}
	})
}

func TestPlugin(t *testing.T) {
	var frames []session.Frame
	for i, s := range []string{"BEGIN 700", "table a", "table b", "COMMIT 700"} {
		frames = append(frames, session.Frame{Start: wal.LSN(0x100 + i), Data: []byte(s)})
	}
	t.Run("whose ends are recognised", func(t *testing.T) {
		f := connected(NewPlugin("test_decoding", nil))
		wantPlayed(t, f, frames[:2], "BEGIN 700", "table a")
		wantPlayed(t, connected(f), frames, "table b", "COMMIT 700", "settle 0/103")
	})
	t.Run("of which nothing is known", func(t *testing.T) {
		f := connected(NewPlugin("other", nil))
		wantPlayed(t, f, frames[:2], "BEGIN 700", "settle 0/100", "table a", "settle 0/101")
		wantPlayed(t, connected(f), frames[:1], "BEGIN 700", "settle 0/101")
	})
}

// A new connection sends again what was delivered last, and that must be the same.
func TestLog(t *testing.T) {
	piece := func(at wal.LSN, s string) session.Frame { return session.Frame{Start: at, Data: []byte(s)} }
	begun := func(t *testing.T) *Log {
		f := connected(&Log{Segment: 0x1000})
		f.BeginAt(0x1000, 1, session.System{Timeline: 1, Flushed: 0x2000}, "")
		f.Arrive(&resume.Source{Origin: resume.Origin{Timeline: 1}}, "here")
		wantPlayed(t, f, []session.Frame{piece(0x1000, "abcd"), piece(0x1004, "ef")}, "abcd", "settle 0/1004", "ef", "settle 0/1006")
		connected(f)
		f.Arrive(&resume.Source{Origin: resume.Origin{Timeline: 1}}, "there")
		if from, timeline := f.Sending(); from != 0x1000 || timeline != 1 || !f.IsOnTrial() {
			t.Fatalf("the proof begins at %s on timeline %d", from, timeline)
		}
		return f
	}
	t.Run("the same", func(t *testing.T) {
		wantPlayed(t, begun(t), []session.Frame{piece(0x1000, "abc"), piece(0x1003, "defgh")}, "settle 0/1003", "accept, because its WAL from 0/1000 to 0/1006 is the same", "gh", "settle 0/1008")
	})
	t.Run("another", func(t *testing.T) {
		if _, err := play(begun(t), piece(0x1000, "abcdeX")); !errors.Is(err, walerr.Diverged) {
			t.Error(err)
		}
	})
	t.Run("a timeline that ends before it", func(t *testing.T) {
		if err := begun(t).TimelineEnd(); !errors.Is(err, walerr.Diverged) {
			t.Error(err)
		}
	})
	t.Run("removed", func(t *testing.T) {
		f := begun(t)
		f.Waive()
		f.Arrive(&resume.Source{}, "there")
		if from, _ := f.Sending(); from != 0x1006 || f.IsOnTrial() {
			t.Errorf("it goes on at %s", from)
		}
	})
}
