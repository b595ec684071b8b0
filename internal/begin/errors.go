package begin

import (
	"errors"
	"fmt"

	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

const timeFormat = "2006-01-02 15:04:05.000000"

// Diverged is the error of a server with another history.
func Diverged(what string) error {
	return &walerr.Error{Kind: walerr.Diverged, What: what,
		Advice: "what was delivered after the fork does not exist on this server: compare, repair the target, then begin anew (SubscribeAnew)"}
}

// differs is the error of a server that does not have the last transaction. by is what says so.
func differs(p resume.Point, by string) error {
	return Diverged(fmt.Sprintf("the server does not have transaction %d of %s, which was committed at %s and delivered (%s)", p.XID, pgtime.Time(p.Time).Format(timeFormat), p.Commit, by))
}

// AnotherThere is the error of a server that has another transaction where the last one of p was.
func AnotherThere(p resume.Point, at wal.LSN, xid uint32, time int64) error {
	return Diverged(fmt.Sprintf("at %s the server has transaction %d of %s, and not %d of %s, which was delivered",
		at, xid, pgtime.Time(time).Format(timeFormat), p.XID, pgtime.Time(p.Time).Format(timeFormat)))
}

// OtherWAL is the error of a physical stream whose server has another history.
func OtherWAL(what string) error {
	return &walerr.Error{Kind: walerr.Diverged, What: what,
		Advice: "this is not the WAL that the stream is to continue: connect to the right server, or begin anew in another archive (WithWALFrom, without the checkpoint)"}
}

// historyError makes an error of what resume.Check says.
func historyError(err error) error {
	r := (*resume.Refusal)(nil)
	switch {
	case !errors.As(err, &r):
		return err
	case r.Passing:
		return slots.InRecovery(r.Text, nil)
	}
	return Diverged(r.Text)
}

// didNotComeAgain is the error of a last transaction that the server should have sent again, when nothing proves that it has it.
func didNotComeAgain(p resume.Point) error {
	return &walerr.Error{Kind: walerr.Unproven, What: fmt.Sprintf("transaction %d, which was committed at %s and delivered, should have come again and did not", p.XID, p.Commit),
		Advice: "either the server has another history, or the transaction is no longer published (see the publications); compare, then use WithProof(false), or begin anew"}
}

// unproven is the error of a history that nothing proves, when a proof is asked for.
func unproven(p resume.Point) error {
	what := fmt.Sprintf("nothing proves that the server has transaction %d, which was committed at %s and delivered", p.XID, p.Commit)
	if !p.HasTransaction() {
		what = "nothing proves that the server has the history of the checkpoint, because no transaction was delivered yet"
	}
	return &walerr.Error{Kind: walerr.Unproven, What: what,
		Advice: "compare the target with the server, then Subscribe without WithProof(true); a role with REPLICATION that may open a walsender, or track_commit_timestamp = on, gives the proof"}
}

// UnprovenWAL is the same of a physical stream: the server has removed what was delivered last.
func UnprovenWAL(from, through wal.LSN, err error) error {
	return &walerr.Error{Kind: walerr.Unproven, What: fmt.Sprintf("the server has removed the WAL from %s to %s, which was delivered, so that nothing proves its history", from, through), Err: err,
		Advice: "compare the archive with the server, then go on without WithProof(true); a slot keeps the WAL (WithSlot)"}
}

// WALRemoved is the error of a position whose WAL the server does not have (WalSndSegmentOpen in
// src/backend/replication/walsender.c).
func WALRemoved(err error) error {
	return &walerr.Error{Kind: walerr.WALRemoved, What: "the server has removed WAL before it was sent", Err: err,
		Advice: "take it from an archive and go on behind it, or begin anew; a slot keeps WAL (WithSlot), within max_slot_wal_keep_size"}
}
