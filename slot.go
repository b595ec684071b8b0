package walchan

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/sqlstate"
)

// slotRow is what pg_replication_slots says of a slot.
type slotRow struct {
	kind, plugin, database string
	temporary, twoPhase    bool
	activePID              uint32
	confirmed              LSN
	walStatus              string
}

func readSlot(ctx context.Context, query func(context.Context, string) ([][]string, error), name string) (*slotRow, error) {
	rows, err := query(ctx, "SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), temporary, coalesce(active_pid, 0), "+
		"coalesce(confirmed_flush_lsn, '0/0'), coalesce(wal_status, ''), two_phase FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pgsql.Literal(name))
	if err != nil {
		return nil, pgfail.Failed(fmt.Sprintf("look up slot %q", name), err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	r := rows[0]
	slot := &slotRow{kind: r[0], plugin: r[1], database: r[2], temporary: r[3] == "t", walStatus: r[6], twoPhase: r[7] == "t"}
	fmt.Sscanf(r[4], "%d", &slot.activePID)
	if slot.confirmed, err = ParseLSN(r[5]); err != nil {
		return nil, fmt.Errorf("walchan: look up slot %q: %w", name, err)
	}
	return slot, nil
}

// prepareSlot makes sure of the slot, and returns what it has as confirmed.
func (s *Stream) prepareSlot(ctx context.Context, c, lost *connection, database string) (LSN, error) {
	name := s.source.Slot
	if s.cfg.slot == "" {
		return createLogical(s.ctx, c, name, s.cfg, true)
	}
	slot, err := readSlot(ctx, c.Query, name)
	if err == nil && slot == nil && lost == nil && s.cfg.createSlot {
		from, refused := createLogical(s.ctx, c, name, s.cfg, false)
		if !errors.Is(refused, ErrSlotExists) {
			c.made = refused == nil
			return from, refused
		}
		slot, err = readSlot(ctx, c.Query, name) // another process was faster
	}
	switch {
	case err != nil:
		return 0, err
	case slot == nil && lost != nil && c.standby && !lost.standby:
		return 0, inRecovery(fmt.Sprintf("it does not have slot %q", name), nil)
	case slot == nil:
		return 0, s.missingSlot(nil)
	}
	if err := slot.check(name, s.cfg.plugin, database); err != nil {
		return 0, err
	}
	version, _ := c.Version()
	if err := s.cfg.checkTwoPhase(slot, name, version); err != nil {
		return 0, err
	}
	if lost != nil && s.cfg.terminateOld && slot.activePID == lost.PID() {
		if err := s.terminate(ctx, c, lost); err != nil {
			return 0, err
		}
	}
	if lost == nil && s.cfg.checkpoints && s.cfg.isTwoPhase() && !slot.twoPhase {
		if err := s.checkSwitch(slot.confirmed); err != nil {
			return 0, err
		}
	}
	c.told = slot.confirmed // START_REPLICATION does not tell it; a COMMIT may be waiting to be told
	return slot.confirmed, nil
}

// checkSwitch fails if the slot is behind the checkpoint when WithTwoPhase is switched on, which the server does for good. It would then send
// what was prepared in between at its PREPARE, in the midst of what the consumer has, and at its COMMIT PREPARED not again.
func (s *Stream) checkSwitch(slot LSN) error {
	cp, err := s.cfg.checkpoint(s.ctx)
	if err != nil {
		return err
	}
	if p := cp.c.Point; cp.c.Physical || p.IsComplete() && max(p.Through, p.Message) <= slot {
		return nil
	}
	return &Error{Kind: ErrOptions, What: fmt.Sprintf("WithTwoPhase is not switched on for slot %q, because that is at %s, behind the checkpoint, and what was prepared in between would be left out", s.source.Slot, slot),
		Advice: "stream without it until now (WithUntilNow), then with it"}
}

// terminate ends the walsender of a lost connection, which may wait for us for long.
func (s *Stream) terminate(ctx context.Context, c, lost *connection) error {
	_, err := c.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = %d AND backend_start::text = %s",
		lost.PID(), pgsql.Literal(lost.backendStart)))
	if err != nil {
		return pgfail.Failed(fmt.Sprintf("terminate our old walsender (PID %d)", lost.PID()), err)
	}
	s.cfg.log.Info("terminated the walsender of the lost connection", "slot", s.source.Slot, "pid", lost.PID())
	return nil
}

// check says whether a stream can be had from the slot.
func (slot *slotRow) check(name, plugin, database string) error {
	mismatch := func(is, advice string) error {
		return &Error{Kind: ErrSlotMismatch, What: fmt.Sprintf("slot %q is %s", name, is), Advice: advice}
	}
	switch {
	case slot.kind != "logical":
		return mismatch("a physical one", "use a logical slot")
	case slot.database != database:
		return mismatch(fmt.Sprintf("of the database %q, not of %q", slot.database, database), "connect to its database, or use another slot")
	case slot.plugin != plugin && slot.plugin != "": // while it is being made
		return mismatch(fmt.Sprintf("of the output plugin %q, not of %q", slot.plugin, plugin), "ask for it with WithPlugin, or use another slot")
	case slot.walStatus == "lost":
		return invalidated(name, "", nil)
	}
	return nil
}

func (s *Stream) missingSlot(err error) error {
	e := missingSlot(s.source.Slot, err)
	if s.cfg.checkpoints {
		e.Advice = "a new one would leave a gap: copy the tables again (SubscribeAnew, with WithSnapshot)"
	}
	return e
}

func missingSlot(name string, err error) *Error {
	return &Error{Kind: ErrSlotMissing, What: fmt.Sprintf("slot %q does not exist", name), Err: err,
		Advice: "create it with WithCreateSlot or CreateSlot: it begins now, and what was changed before is not in it"}
}

// invalidated says that the server has given up a slot. reason is pg_replication_slots.invalidation_reason, "" if not known.
func invalidated(name, reason string, err error) error {
	advice := "begin anew: DropSlot, Subscribe with WithCreateSlot, and copy the tables again"
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
	return &Error{Kind: ErrSlotInvalidated, What: what, Err: err, Advice: advice}
}

// startError translates the refusal of START_REPLICATION. Some SQLSTATEs have several meanings: then the slot tells.
func (s *Stream) startError(ctx context.Context, c *connection, err error) error {
	name := s.source.Slot
	what := fmt.Sprintf("start replication from slot %q", name)
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return activeSlot(ctx, c.Query, name, err)
	case state == sqlstate.UndefinedObject:
		return s.missingSlot(err)
	case c.standby && (state == sqlstate.NotPrerequisite || state == sqlstate.FeatureNotSupported):
		return inRecovery(what, err)
	case state == sqlstate.NotPrerequisite:
		slot, lookErr := readSlot(ctx, c.Query, name)
		if lookErr == nil && slot != nil && slot.walStatus == "lost" {
			return invalidated(name, "", err)
		}
	case state == sqlstate.UndefinedFile:
		return missingPlugin(s.cfg.plugin, err)
	case isOptionRefused(sqlstate.Error(err)):
		return &Error{Kind: ErrPluginOption, What: fmt.Sprintf("the output plugin %q refuses an option", s.cfg.plugin), Err: err,
			Advice: "correct it (WithPlugin, WithPluginOption)"}
	}
	return pgfail.Failed(what, err)
}

// isOptionRefused says whether the output plugin has refused an option, when asked at START_REPLICATION: of its kinds of errors
// pgoutput has an internal one for an option that it does not know (parse_output_parameters in
// src/backend/replication/pgoutput/pgoutput.c), which the name of the source file tells from others.
func isOptionRefused(pg *pgconn.PgError) bool {
	if pg == nil {
		return false
	}
	switch pg.Code {
	case sqlstate.InvalidParameter, sqlstate.SyntaxError, sqlstate.InvalidName, sqlstate.FeatureNotSupported:
		return true
	case sqlstate.Internal:
		return pg.File == "pgoutput.c"
	}
	return false
}
