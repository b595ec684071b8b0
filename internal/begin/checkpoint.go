package begin

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// Source is what a stream's positions belong to.
type Source struct {
	SystemID string
	Database string // "" of a physical stream
	Slot     string // "" of a physical stream without one
}

// SourceOf returns the source of a checkpoint.
func SourceOf(cp *resume.Checkpoint) Source { return Source{cp.SystemID, cp.Database, cp.Slot} }

func (s Source) String() string {
	return fmt.Sprintf("slot %q of database %q in cluster %s", s.Slot, s.Database, s.SystemID)
}

// describeWAL describes the source of a physical stream.
func (s Source) describeWAL() string {
	if s.Slot == "" {
		return fmt.Sprintf("a stream without a slot from cluster %s", s.SystemID)
	}
	return fmt.Sprintf("slot %q in cluster %s", s.Slot, s.SystemID)
}

// check fails for a checkpoint of another cluster, database or slot. upgraded says that the cluster is the one of the checkpoint
// after pg_upgrade.
func (s Source) check(cp *resume.Checkpoint, upgraded bool) error {
	if cp.Physical {
		return &walerr.Error{Kind: walerr.Checkpoint, What: "the checkpoint is of a physical stream", Advice: "give it to SubscribePhysical"}
	}
	if *cp == (resume.Checkpoint{}) || SourceOf(cp) == s || upgraded {
		return nil
	}
	return &walerr.Error{Kind: walerr.Checkpoint, What: fmt.Sprintf("the checkpoint is of %s, and not of %s", SourceOf(cp), s),
		Advice: "connect to its server and slot, or keep one checkpoint for each source; after pg_upgrade see WithUpgradedFrom"}
}

// CheckWAL is check for a physical stream.
func (s Source) CheckWAL(cp *resume.Checkpoint) error {
	switch {
	case *cp == (resume.Checkpoint{}):
		return nil
	case !cp.Physical:
		return &walerr.Error{Kind: walerr.Checkpoint, What: "the checkpoint is of a logical stream", Advice: "give it to Subscribe"}
	case SourceOf(cp) != s:
		return &walerr.Error{Kind: walerr.Checkpoint, What: fmt.Sprintf("the checkpoint is of %s, and not of %s", SourceOf(cp).describeWAL(), s.describeWAL()),
			Advice: "connect to its server and slot, or keep one checkpoint for each source"}
	}
	return nil
}

// missingBehind is the error of a slot that does not exist although the consumer has a checkpoint of it. It is nil if a new slot leaves no
// gap. snapshot says that rows are copied first.
func missingBehind(slot string, cp *resume.Checkpoint, snapshot bool) error {
	switch {
	case cp.HasTransaction(), cp.Message != 0:
		return slots.GoneAfter(slot, cp.Position())
	case *cp != (resume.Checkpoint{}) && !snapshot:
		return slots.GoneUnused(slot, cp.Through)
	}
	return nil
}

// checkUpgraded fails if the checkpoint of a cluster that pg_upgrade has read cannot be taken over. slot is what the slot of the new
// cluster has as confirmed, and beside makes a connection to that.
//
// pg_upgrade keeps XIDs, and demands that the slot has confirmed all WAL, but says nothing of the consumer. The new cluster has other
// positions.
func checkUpgraded(ctx context.Context, p resume.Point, slot wal.LSN, beside func() (*pgconn.PgConn, error)) error {
	refuse := func(what string) error {
		return &walerr.Error{Kind: walerr.Checkpoint, What: "the checkpoint is of the cluster before pg_upgrade, and " + what, Advice: "compare the target with the server, then begin anew (SubscribeAnew)"}
	}
	if !p.IsComplete() {
		return refuse("its last transaction is not complete")
	}
	if slot < p.Through {
		return refuse(fmt.Sprintf("the slot is at %s, before it", slot))
	}
	if p.HasTransaction() {
		side, err := beside()
		if err != nil {
			return err
		}
		defer side.Close(context.WithoutCancel(ctx))
		if !isCommitted(ctx, side, p.XID) {
			return refuse(fmt.Sprintf("its last transaction, %d, is not committed here", p.XID))
		}
	}
	return nil
}
