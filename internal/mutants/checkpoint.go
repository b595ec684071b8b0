package main

func init() { mutants = append(mutants, checkpoints...) }

// Checkpoints, and the proof that a server has the history of what was delivered.
var checkpoints = []mutant{
	{"a position of another history is told", "		s.rewind(c)\n		s.cfg.log.Info", "		s.cfg.log.Info", "TestNewTimelineIsReadFromTheFork|TestAfterAReconnect"},
	{"a connection on trial is told what is confirmed", "c.told, c.limit, s.known, s.told = slot.confirmed, slot.confirmed, slot.confirmed, p.bound", "c.told, c.limit, s.known, s.told = slot.confirmed, never, slot.confirmed, p.bound", "TestAfterAReconnect"},
	{"the last transaction may be another", "	case !t.Is(ev.XID, ev.Time):", "	case false:", "TestAfterAReconnect"},
	{"a transaction that does not come is not missed", "	case lsn > t.Commit:\n		return f.absent(s, t)\n", "	case lsn > t.Commit:\n		f.trial = nil\n		return nil\n", "TestAfterAReconnect"},
	{"the time of a transaction does not matter to its identity", "p.XID == xid && p.Time == time", "p.XID == xid", "TestAfterAReconnect"},
	{"a keepalive is confirmed although nothing covers it", "	if !s.ledger.Storing && !s.cfg.physical {\n", "	if !s.cfg.physical {\n", "TestCheckpointed"},
	{"a skipped message counts as stored", "	return !l.Storing || max(l.behind, l.stored.Load()) >= m.seq || l.saved >= m.lsn || l.isStoredAhead()\n", "	return true\n", "TestCheckpointed|TestSlotIsMadeOnce"},
	{"the last row does not say that it is the last", "		m.ext = &f.ends[len(f.ends)-1]\n", "", "TestCheckpointed"},
	{"a torn checkpoint is read", "p.bad || c.String() != text", "p.bad", "TestTornText|TestTexts"},
	{"a new slot behind a checkpoint", "	case cp.c.HasTransaction():", "	case false:", "TestMissingSlotAndCheckpoint"},
	{"a lost checkpoint goes unnoticed", "	case cp.IsZero() && s.cfg.from == 0:", "	case false:", "TestMissingSlotAndCheckpoint"},
	{"a checkpoint of another source goes unnoticed", "cp.IsZero() || cp.Source() == s.source || s.isUpgraded(cp)", "true", "TestCheckpointOfAnotherSource"},
	{"nothing tells a stopping server that it may go", "	case c.pings >= pingsOfStop, !c.leaveAt.IsZero(), c.synchronous.Load():\n", "	case c.synchronous.Load():\n", "TestCheckpointed"},
	{"a synchronous standby is not noticed", "	case c.pings >= pingsOfStop, !c.leaveAt.IsZero(), c.synchronous.Load():\n", "	case c.pings >= pingsOfStop, !c.leaveAt.IsZero():\n", "TestCheckpointed"},
}
