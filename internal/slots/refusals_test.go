package slots

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/walerr"
)

// A refusal says which slot it is about, what is wrong with it, and what to do.
func TestTextsOfRefusals(t *testing.T) {
	answering := func(rows ...[]string) Querying {
		return func(context.Context, string) ([][]string, error) { return rows, nil }
	}
	slot := func(kind, plugin, database, walStatus string) *Row {
		return &Row{kind: kind, plugin: plugin, database: database, WALStatus: walStatus}
	}
	check := func(slot *Row) error { return slot.Check("s", "pgoutput", "shop") }
	inUse := errors.New("replication slot is active")
	_, madeElsewhere := Making{Slot: "s"}.IsMade(t.Context(), answering([]string{"walchan_1_2_0", "7"}))
	prepared := slot("logical", "pgoutput", "shop", "")
	prepared.TwoPhase = true
	for _, x := range []struct {
		err  error
		kind error
		text string
	}{
		{Missing("s", nil), walerr.SlotMissing, `slot "s" does not exist; create it with WithCreateSlot, or CreateSlot of package admin: it begins now, and what was changed before is not in it`},
		{MissingPhysical("s", nil), walerr.SlotMissing, `slot "s" does not exist; create it with WithCreateSlot, or CreateSlot of package admin`},
		{missingToDrop("s", nil), walerr.SlotMissing, `slot "s" does not exist; check the name: pg_replication_slots has those that exist`},
		{Gone("s", nil), walerr.SlotMissing, `slot "s" does not exist; a new one would leave a gap: copy the tables again (SubscribeAnew, with WithSnapshot)`},
		{GoneAfter("s", "0/10"), walerr.SlotMissing, `slot "s" does not exist, and changes up to 0/10 are applied; a new slot would leave a gap, so none is made: copy the tables again (SubscribeAnew, with WithSnapshot)`},
		{GoneUnused("s", 0x10), walerr.SlotMissing, `slot "s" does not exist, and what was committed before 0/10 is applied; what was changed since then is gone: copy the tables again (SubscribeAnew, with WithSnapshot); if the target needs nothing of it, delete the checkpoint to begin now`},
		{LackedByStandby("s"), walerr.ServerDown, `the server is in recovery: it does not have slot "s"; wait for it to catch up or to be promoted, or connect to the primary`},
		{Lost("s", errors.New("EOF")), walerr.SlotLost, `temporary slot "s" is gone with its connection: EOF; use a permanent slot (WithSlot, WithCreateSlot) for a stream that outlives its connections`},

		{notPhysical("s"), walerr.SlotMismatch, `slot "s" is a logical one; use a physical slot`},
		{check(slot("physical", "", "", "")), walerr.SlotMismatch, `slot "s" is a physical one; use a logical slot`},
		{check(slot("logical", "pgoutput", "other", "")), walerr.SlotMismatch, `slot "s" is of the database "other", not of "shop"; connect to its database, or use another slot`},
		{check(slot("logical", "test_decoding", "shop", "")), walerr.SlotMismatch, `slot "s" is of the output plugin "test_decoding", not of "pgoutput"; ask for it with WithPlugin, or use another slot`},
		{prepared.CheckUnprepared("s", 150000), walerr.SlotMismatch, `slot "s" has two-phase on: it sends transactions that are prepared and may not be committed; ask for that with WithTwoPhase, or use another slot`},

		{check(slot("logical", "pgoutput", "shop", "lost")), walerr.SlotInvalidated, `slot "s" was invalidated: the server no longer has the changes that follow; begin anew: drop the slot, Subscribe with WithCreateSlot, and copy the tables again; if it was for too much WAL, see max_slot_wal_keep_size`},
		{Invalidated("s", "idle_timeout", nil), walerr.SlotInvalidated, `slot "s" was invalidated: the server no longer has the changes that follow (idle_timeout); begin anew: drop the slot, Subscribe with WithCreateSlot, and copy the tables again; see idle_replication_slot_timeout`},
		{Invalidated("s", "unheard_of", nil), walerr.SlotInvalidated, `slot "s" was invalidated: the server no longer has the changes that follow (unheard_of); begin anew: drop the slot, Subscribe with WithCreateSlot, and copy the tables again`},
		{Moved("s", 0x20, 0x10), walerr.SlotMoved, `slot "s" is at 0/20, ahead of 0/10, to which this stream has acknowledged; something else has advanced the slot or made it again, and changes may be lost to this stream: compare, then Subscribe again`},
		{AheadOfCheckpoint("s", 0x20, 0x10), walerr.SlotMoved, `slot "s" is at 0/20, ahead of the checkpoint, which is at 0/10; either messages were acknowledged whose checkpoint was not stored, or the target is older than the slot, or something else has moved the slot; if another process has stored more since the checkpoint was read, begin again (WithCheckpointFrom reads it in time). Otherwise the changes in between are gone: copy the tables again (SubscribeAnew), or accept the gap with WithFrom(0/20) beside WithCheckpoint`},
		{BehindCheckpoint("s", 0x10), walerr.Options, `WithTwoPhase is not switched on for slot "s", because that is at 0/10, behind the checkpoint, and what was prepared in between would be left out; stream without it until now (WithUntilNow), then with it`},
		{WithoutCheckpoint("s", 0x10), walerr.Checkpoint, `slot "s" exists, and the consumer has no checkpoint: it has lost it, or never had one; if the target is a copy as of 0/10, say so with WithFrom; else copy the tables again (SubscribeAnew)`},
		{ExistsBeforeSnapshot("s"), walerr.SlotExists, `slot "s" exists already: what is in the tables now is not what is before its changes; stream from it without WithSnapshot, or with WithCreateSlot beside it; or drop the slot for a snapshot`},

		{Active(t.Context(), answering(), "s", inUse), walerr.SlotActive, `slot "s" is in use: replication slot is active; try again`},
		{Active(t.Context(), answering([]string{"logical", "pgoutput", "shop", "7", "0/0", "", "f"}), "s", inUse), walerr.SlotActive, `slot "s" is in use by PID 7: replication slot is active; wait until it is free (WithWaitForSlot), end that client (see pg_stat_replication; SELECT pg_terminate_backend(7)), or use another slot`},
		{madeElsewhere, walerr.SlotActive, `slot "s" is being made by another process, PID 7; wait until it is made (WithWaitForSlot), or end that process`},
		{perhapsOfAnother("s"), walerr.Server, `slot "s" exists, but perhaps somebody else has made it`},

		{created("42710"), walerr.SlotExists, `create slot "s": message (SQLSTATE 42710); use it, choose another name, or drop it first`},
		{created("53400"), walerr.NoFreeSlot, `create slot "s": message (SQLSTATE 53400); drop a slot that nobody uses (see pg_replication_slots), or raise max_replication_slots`},
		{created("58P01"), walerr.PluginMissing, `no output plugin "pgoutput" on the server: message (SQLSTATE 58P01); install it there, or use another (pgoutput and test_decoding come with PostgreSQL)`},
		{NoRoomForSnapshot("s"), walerr.NoFreeSlot, `slot "s" cannot be made: a snapshot needs two free slots, of which one goes again; drop a slot that nobody uses (see pg_replication_slots), or raise max_replication_slots`},
	} {
		if x.err == nil {
			t.Errorf("no error, want %s", x.text)
		} else if got := x.err.Error(); got != "walchan: "+x.text || !errors.Is(x.err, x.kind) {
			t.Errorf("%s\nwant %s, of kind %v", got, x.text, x.kind)
		}
	}
}

// created returns what the refusal of CREATE_REPLICATION_SLOT is translated to that needs no look at the server.
func created(state string) error {
	refusal := &pgconn.PgError{Code: state, Message: "message", Severity: "ERROR"}
	return CreateError(context.Background(), nil, "s", "pgoutput", fmt.Errorf("wrapped: %w", refusal))
}
