package fakewal

import "time"

// Tx is a transaction as pgoutput sends it: Begin, Changes, Commit.
type Tx struct {
	XID     uint32
	First   LSN       // position of the first change
	Commit  LSN       // position of the commit record
	End     LSN       // and its end, which the client confirms
	At      time.Time // commit time; zero: 2000-01-01
	Changes [][]byte  // Insert, Relation.Encode …
}

// Frames returns the transaction's messages with positions as a server gives them: Begin has First, Relation and Type none,
// changes lie between First and Commit, Commit has End. With an Origin as the first change, it has First, and Begin none.
func (t Tx) Frames() []Frame {
	if t.At.IsZero() {
		t.At = fromMicros(0)
	}
	begin := t.First
	if len(t.Changes) > 0 && t.Changes[0][0] == 'O' {
		begin = 0
	}
	frames := []Frame{{begin, begin, Begin(t.Commit, t.At, t.XID)}}
	for i, change := range t.Changes {
		var lsn LSN
		if change[0] != 'R' && change[0] != 'Y' {
			lsn = t.First + (t.Commit-t.First)*LSN(i)/LSN(len(t.Changes))
		}
		frames = append(frames, Frame{lsn, lsn, change})
	}
	return append(frames, Frame{t.End, t.End, Commit(t.Commit, t.End, t.At)})
}

// Since returns the messages that a server sends to a stream that starts at from: of all transactions but those whose commit
// record lies before it (snapbuild.c, SnapBuildXactNeedsSkip).
func Since(log []Tx, from LSN) (frames []Frame) {
	for _, t := range log {
		if t.Commit >= from {
			frames = append(frames, t.Frames()...)
		}
	}
	return frames
}
