package slots

import (
	"context"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// The texts of all refusals about a slot. Each is a whole sentence, so that it is found by what the user has read. What a server says of
// histories, and of starting, stands in internal/begin.

// A slot that does not exist.

// Missing is the error of a logical slot that does not exist.
func Missing(name string, err error) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err,
		Advice: "create it with WithCreateSlot, or CreateSlot of package admin: it begins now, and what was changed before is not in it"}
}

// MissingPhysical is the error of a physical slot that does not exist.
func MissingPhysical(name string, err error) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err,
		Advice: "create it with WithCreateSlot, or CreateSlot of package admin"}
}

// Gone is the error of a slot that does not exist, although the consumer may have a checkpoint of it.
func Gone(name string, err error) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err,
		Advice: "a new one would leave a gap: copy the tables again (SubscribeAnew, with WithSnapshot)"}
}

// GoneAfter is the error of a slot that does not exist, although the consumer has applied changes up to a position.
func GoneAfter(name, applied string) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist, and changes up to %s are applied", name, applied),
		Advice: "a new slot would leave a gap, so none is made: copy the tables again (SubscribeAnew, with WithSnapshot)"}
}

// GoneUnused is the same if no changes came through the slot: only what was committed before a position is applied.
func GoneUnused(name string, before wal.LSN) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist, and what was committed before %s is applied", name, before),
		Advice: "what was changed since then is gone: copy the tables again (SubscribeAnew, with WithSnapshot); if the target needs nothing of it, " +
			"delete the checkpoint to begin now"}
}

// LackedByStandby is the error of a standby that does not have the slot, and may get it until it is promoted.
func LackedByStandby(name string) error {
	return &walerr.Error{Kind: walerr.ServerDown, What: fmt.Sprintf("the server is in recovery: it does not have slot %q", name), Advice: awaitPromotion}
}

func missingToDrop(name string, err error) error {
	return &walerr.Error{Kind: walerr.SlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err, Advice: "check the name: pg_replication_slots has those that exist"}
}

// Lost is the error of a temporary slot. err is why its connection has ended.
func Lost(name string, err error) error {
	return &walerr.Error{Kind: walerr.SlotLost, What: fmt.Sprintf("temporary slot %q is gone with its connection", name), Err: err,
		Advice: "use a permanent slot (WithSlot, WithCreateSlot) for a stream that outlives its connections"}
}

// A slot of another kind.

func notPhysical(name string) error {
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q is a logical one", name), Advice: "use a physical slot"}
}

func notLogical(name string) error {
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q is a physical one", name), Advice: "use a logical slot"}
}

func ofOtherDatabase(name, is, want string) error {
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q is of the database %q, not of %q", name, is, want),
		Advice: "connect to its database, or use another slot"}
}

func ofOtherPlugin(name, is, want string) error {
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q is of the output plugin %q, not of %q", name, is, want),
		Advice: "ask for it with WithPlugin, or use another slot"}
}

func sendsPrepared(name string) error {
	return &walerr.Error{Kind: walerr.SlotMismatch, What: fmt.Sprintf("slot %q has two-phase on: it sends transactions that are prepared and may not be committed", name),
		Advice: "ask for that with WithTwoPhase, or use another slot"}
}

// A slot that has lost its changes, or whose position is wrong.

// Invalidated says that the server has given up a slot. reason is pg_replication_slots.invalidation_reason, "" if not known.
func Invalidated(name, reason string, err error) error {
	advice := "begin anew: drop the slot, Subscribe with WithCreateSlot, and copy the tables again"
	if cause, ok := map[string]string{
		"":                       "if it was for too much WAL, see max_slot_wal_keep_size",
		"wal_removed":            "see max_slot_wal_keep_size",
		"rows_removed":           "see hot_standby_feedback",
		"wal_level_insufficient": "see wal_level on the primary",
		"idle_timeout":           "see idle_replication_slot_timeout",
	}[reason]; ok {
		advice += "; " + cause
	}
	what := fmt.Sprintf("slot %q was invalidated: the server no longer has the changes that follow", name)
	if reason != "" {
		what += " (" + reason + ")"
	}
	return &walerr.Error{Kind: walerr.SlotInvalidated, What: what, Err: err, Advice: advice}
}

// Moved is the error of a slot that has confirmed what the stream has not acknowledged.
func Moved(name string, confirmed, acknowledged wal.LSN) error {
	return &walerr.Error{Kind: walerr.SlotMoved, What: fmt.Sprintf("slot %q is at %s, ahead of %s, to which this stream has acknowledged", name, confirmed, acknowledged),
		Advice: "something else has advanced the slot or made it again, and changes may be lost to this stream: compare, then Subscribe again"}
}

// AheadOfCheckpoint is the error of a slot that has confirmed more than the consumer's checkpoint covers.
func AheadOfCheckpoint(name string, confirmed, checkpoint wal.LSN) error {
	return &walerr.Error{Kind: walerr.SlotMoved, What: fmt.Sprintf("slot %q is at %s, ahead of the checkpoint, which is at %s", name, confirmed, checkpoint),
		Advice: fmt.Sprintf("either messages were acknowledged whose checkpoint was not stored, or the target is older than the slot, or something else has moved the slot; "+
			"if another process has stored more since the checkpoint was read, begin again (WithCheckpointFrom reads it in time). "+
			"Otherwise the changes in between are gone: copy the tables again (SubscribeAnew), or accept the gap with WithFrom(%s) beside WithCheckpoint", confirmed)}
}

// BehindCheckpoint is the error of a slot at a position behind the checkpoint, for which two-phase is to be switched on. The server would
// then send what was prepared in between at its PREPARE, in the midst of what the consumer has, and at its COMMIT PREPARED not again.
func BehindCheckpoint(name string, at wal.LSN) error {
	return &walerr.Error{Kind: walerr.Options, What: fmt.Sprintf("WithTwoPhase is not switched on for slot %q, because that is at %s, behind the checkpoint, and what was prepared in between would be left out", name, at),
		Advice: "stream without it until now (WithUntilNow), then with it"}
}

// WithoutCheckpoint is the error of a slot that exists, at a position, although the consumer has no checkpoint.
func WithoutCheckpoint(name string, at wal.LSN) error {
	return &walerr.Error{Kind: walerr.Checkpoint, What: fmt.Sprintf("slot %q exists, and the consumer has no checkpoint: it has lost it, or never had one", name),
		Advice: fmt.Sprintf("if the target is a copy as of %s, say so with WithFrom; else copy the tables again (SubscribeAnew)", at)}
}

// ExistsBeforeSnapshot is the error of a slot that exists although a snapshot is to come first.
func ExistsBeforeSnapshot(name string) error {
	return &walerr.Error{Kind: walerr.SlotExists, What: fmt.Sprintf("slot %q exists already: what is in the tables now is not what is before its changes", name),
		Advice: "stream from it without WithSnapshot, or with WithCreateSlot beside it; or drop the slot for a snapshot"}
}

// A slot that others use or make.

// Active is the refusal of a slot that is in use. By whom stands in the server's message, in its language; in the
// catalogue it may have changed.
func Active(ctx context.Context, query Querying, name string, err error) error {
	slot, lookErr := Read(ctx, query, name)
	if lookErr != nil || slot == nil || slot.ActivePID == 0 {
		return &walerr.Error{Kind: walerr.SlotActive, What: fmt.Sprintf("slot %q is in use", name), Err: err, Advice: "try again"}
	}
	pid := slot.ActivePID
	return &walerr.Error{Kind: walerr.SlotActive, What: fmt.Sprintf("slot %q is in use by PID %d", name, pid), PID: pid, Err: err,
		Advice: fmt.Sprintf("wait until it is free (WithWaitForSlot), end that client (see pg_stat_replication; SELECT pg_terminate_backend(%d)), or use another slot", pid)}
}

func madeByAnother(name string, pid uint32) error {
	return &walerr.Error{Kind: walerr.SlotActive, What: fmt.Sprintf("slot %q is being made by another process, PID %d", name, pid), PID: pid,
		Advice: "wait until it is made (WithWaitForSlot), or end that process"}
}

func perhapsOfAnother(name string) error {
	return &walerr.Error{Kind: walerr.Server, What: fmt.Sprintf("slot %q exists, but perhaps somebody else has made it", name)}
}

// A slot that cannot be made, and a server that cannot make one.

// CreateError translates the refusal of CREATE_REPLICATION_SLOT.
func CreateError(ctx context.Context, c *session.Conn, name, plugin string, err error) error {
	e := pgfail.Failed(fmt.Sprintf("create slot %q", name), err)
	switch state := sqlstate.Of(err); {
	case ctx.Err() != nil:
		e.Advice = "it waits for the transactions that are running (xact_start in pg_stat_activity): give it more time"
	case state == sqlstate.DuplicateObject:
		e.Kind, e.Advice = walerr.SlotExists, "use it, choose another name, or drop it first"
	case state == sqlstate.ConfigLimit:
		e.Kind, e.Advice = walerr.NoFreeSlot, "drop a slot that nobody uses (see pg_replication_slots), or raise max_replication_slots"
	case state == sqlstate.UndefinedFile, state == sqlstate.Internal && sqlstate.Error(err).Routine == "LoadOutputPlugin":
		return MissingPlugin(plugin, err)
	case state == sqlstate.NotPrerequisite, state == sqlstate.FeatureNotSupported:
		return unpreparedServer(ctx, c, e)
	}
	return e
}

// NoRoomForSnapshot is the error of a server that has not two free slots.
func NoRoomForSnapshot(name string) error {
	return &walerr.Error{Kind: walerr.NoFreeSlot, What: fmt.Sprintf("slot %q cannot be made: a snapshot needs two free slots, of which one goes again", name),
		Advice: "drop a slot that nobody uses (see pg_replication_slots), or raise max_replication_slots"}
}

// MissingPlugin is the error of an output plugin that the server cannot load.
func MissingPlugin(plugin string, err error) error {
	return &walerr.Error{Kind: walerr.PluginMissing, What: fmt.Sprintf("no output plugin %q on the server", plugin), Err: err,
		Advice: "install it there, or use another (pgoutput and test_decoding come with PostgreSQL)"}
}

// unpreparedServer looks at the server for why it makes no slot, which its SQLSTATE leaves open.
func unpreparedServer(ctx context.Context, c *session.Conn, e *walerr.Error) error {
	rows, err := c.Query(ctx, "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_setting('max_replication_slots'), pg_catalog.pg_is_in_recovery()")
	if err != nil || len(rows) != 1 {
		return e
	}
	level, slots, recovery := rows[0][0], rows[0][1], rows[0][2]
	switch {
	case level != "logical":
		return &walerr.Error{Kind: walerr.WALLevel, What: fmt.Sprintf("wal_level is %s", level), Err: e.Err,
			Advice: "ALTER SYSTEM SET wal_level = logical (a managed service has a parameter for it), and restart the server"}
	case slots == "0":
		return &walerr.Error{Kind: walerr.NoFreeSlot, What: "max_replication_slots is 0", Err: e.Err, Advice: "raise it, and restart the server"}
	case recovery == "t":
		return InRecovery(e.What, e.Err)
	}
	return e
}

// InRecovery is the failure of a standby, or of a server that recovers from a crash, that cannot continue the stream yet.
func InRecovery(what string, err error) error {
	return &walerr.Error{Kind: walerr.ServerDown, What: "the server is in recovery: " + what, Err: err, Advice: awaitPromotion}
}

const awaitPromotion = "wait for it to catch up or to be promoted, or connect to the primary"
