package walchan

import (
	"context"
	"fmt"
	"strings"

	"github.com/walchan/walchan/internal/session"
)

// slotRow is what pg_replication_slots says of a slot.
type slotRow struct {
	kind, plugin, database string
	temporary              bool
	activePID              uint32
	confirmed              LSN
	walStatus              string
}

func readSlot(ctx context.Context, query func(context.Context, string) ([][]string, error), name string) (*slotRow, error) {
	rows, err := query(ctx, "SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), temporary, coalesce(active_pid, 0), "+
		"coalesce(confirmed_flush_lsn, '0/0'), coalesce(wal_status, '') FROM pg_catalog.pg_replication_slots WHERE slot_name = "+quoteLiteral(name))
	if err != nil {
		return nil, fmt.Errorf("walchan: look up slot %q: %w", name, err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	r := rows[0]
	slot := &slotRow{kind: r[0], plugin: r[1], database: r[2], temporary: r[3] == "t", walStatus: r[6]}
	fmt.Sscanf(r[4], "%d", &slot.activePID)
	if slot.confirmed, err = ParseLSN(r[5]); err != nil {
		return nil, fmt.Errorf("walchan: look up slot %q: %w", name, err)
	}
	return slot, nil
}

// prepareSlot makes sure of the slot, and returns where to stream from.
func (s *Stream) prepareSlot(ctx context.Context, c, lost *connection, database string) (LSN, error) {
	name := s.source.Slot
	if s.cfg.slot == "" {
		return createLogical(s.ctx, c.Conn, name, s.cfg.plugin, true)
	}
	slot, err := readSlot(ctx, c.Query, name)
	switch {
	case err != nil:
		return 0, err
	case slot == nil && lost == nil && s.cfg.createSlot:
		return createLogical(s.ctx, c.Conn, name, s.cfg.plugin, false)
	case slot == nil && lost != nil && c.standby && !lost.standby:
		return 0, inRecovery(fmt.Sprintf("it does not have slot %q", name))
	case slot == nil:
		return 0, missingSlot(name, nil)
	}
	if err := slot.check(name, s.cfg.plugin, database); err != nil {
		return 0, err
	}
	if lost == nil {
		return slot.confirmed, nil
	}
	if s.cfg.terminateOld && slot.activePID == lost.PID() {
		if err := s.terminate(ctx, c, lost); err != nil {
			return 0, err
		}
	}
	// The last position that was acknowledged, whatever the slot has: after a crash of the server it may have rolled back.
	from := s.ledger.advance()
	return from, s.moved(slot, from)
}

// terminate ends the walsender of a lost connection, which may wait for us for long.
func (s *Stream) terminate(ctx context.Context, c, lost *connection) error {
	_, err := c.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = %d AND backend_start::text = %s",
		lost.PID(), quoteLiteral(lost.backendStart)))
	if err != nil {
		return fmt.Errorf("walchan: terminate our old walsender (PID %d): %w", lost.PID(), err)
	}
	s.cfg.log.Info("terminated the walsender of the lost connection", "slot", s.source.Slot, "pid", lost.PID())
	return nil
}

// moved fails if the slot is ahead of what this stream has acknowledged: then somebody else has moved it.
func (s *Stream) moved(slot *slotRow, acknowledged LSN) error {
	if slot.confirmed <= acknowledged {
		return nil
	}
	return &Error{Kind: ErrSlotMoved, What: fmt.Sprintf("slot %q is at %s, ahead of %s, to which this stream has acknowledged",
		s.source.Slot, slot.confirmed, acknowledged),
		Advice: "something else has advanced the slot or made it anew, and changes may be lost to this stream: compare, then Subscribe again"}
}

func (slot *slotRow) check(name, plugin, database string) error {
	mismatch := func(is, advice string) error {
		return &Error{Kind: ErrSlotMismatch, What: fmt.Sprintf("slot %q is %s", name, is), Advice: advice}
	}
	switch {
	case slot.kind != "logical":
		return mismatch("a physical one", "use a logical slot")
	case slot.database != database:
		return mismatch(fmt.Sprintf("of the database %q, not of %q", slot.database, database), "connect to its database, or use another slot")
	case slot.plugin != plugin:
		return mismatch(fmt.Sprintf("of the output plugin %q, not of %q", slot.plugin, plugin), "ask for it with WithPlugin, or use another slot")
	case slot.walStatus == "lost":
		return invalidated(name, nil)
	}
	return nil
}

func invalidated(name string, err error) error {
	return &Error{Kind: ErrSlotInvalidated, What: fmt.Sprintf("slot %q was invalidated: the server has removed WAL or rows that it needed", name), Err: err,
		Advice: "drop it, begin anew with a new slot, and see max_slot_wal_keep_size"}
}

// createLogical makes a slot and returns the position it begins at.
func createLogical(ctx context.Context, c *session.Conn, name, plugin string, temporary bool) (LSN, error) {
	sql := "CREATE_REPLICATION_SLOT " + quoteName(name)
	if temporary {
		sql += " TEMPORARY"
	}
	rows, err := c.Query(ctx, sql+" LOGICAL "+quoteName(plugin)+" NOEXPORT_SNAPSHOT")
	if err != nil {
		return 0, refusedWithoutLogical(ctx, c, fmt.Errorf("walchan: create slot %q: %w", name, slotError(err, name, plugin)))
	}
	if len(rows) != 1 || len(rows[0]) < 2 {
		return 0, fmt.Errorf("walchan: create slot %q: unexpected answer", name)
	}
	return ParseLSN(rows[0][1])
}

// refusedWithoutLogical says so where the reason of a refusal is wal_level: its SQLSTATE has other meanings, too.
func refusedWithoutLogical(ctx context.Context, c *session.Conn, err error) error {
	if sqlState(err) != stateNotPrerequisite {
		return err
	}
	rows, showErr := c.Query(ctx, "SHOW wal_level")
	if showErr != nil || len(rows) != 1 || rows[0][0] == "logical" {
		return err
	}
	return &Error{Kind: ErrWALLevel, What: "wal_level is " + rows[0][0], Err: err,
		Advice: "set wal_level = logical in postgresql.conf and restart the server"}
}

// startError translates the refusal of START_REPLICATION.
func (s *Stream) startError(ctx context.Context, c *connection, err error, name string) error {
	if sqlState(err) == stateNotPrerequisite {
		if err := refusedWithoutLogical(ctx, c.Conn, err); sqlState(err) != stateNotPrerequisite || isPermanent(err) {
			return err
		}
		if slot, _ := readSlot(ctx, c.Query, name); slot != nil && slot.walStatus == "lost" {
			return invalidated(name, err)
		}
	}
	return fmt.Errorf("walchan: start replication: %w", slotError(err, name, s.cfg.plugin))
}

// checkPublications: a server before version 18 says that one is missing only at the first change, later ones merely warn.
func checkPublications(ctx context.Context, c *session.Conn, names []string) error {
	if len(names) == 0 {
		return nil
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quoteLiteral(n)
	}
	rows, err := c.Query(ctx, "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ("+strings.Join(quoted, ", ")+")")
	if err != nil {
		return fmt.Errorf("walchan: look up publications: %w", err)
	}
	have := map[string]bool{}
	for _, r := range rows {
		have[r[0]] = true
	}
	for _, n := range names {
		if !have[n] {
			return &Error{Kind: ErrPublicationMissing, What: fmt.Sprintf("publication %q does not exist", n),
				Advice: "create it: CREATE PUBLICATION, or EnsurePublication"}
		}
	}
	return nil
}
