package main

func init() { mutants = append(mutants, checkpoints...) }

// Checkpoints, and the proof that a server has the history of what was delivered.
var checkpoints = []mutant{
	{"a position of another history is told", "	o.rewind(c)\n	c.Limit = never\n	o.cfg", "	c.Limit = never\n	o.cfg", "TestNewTimelineIsReadFromTheFork|TestAfterAReconnect"},
	{"a connection on trial is told what is confirmed", "o.told, c.Limit = p.Bound, s.Told", "o.told, c.Limit = p.Bound, never", "TestAfterAReconnect"},
	{"the last transaction may be another", "	case !x.Is(begins.XID, begins.Time):", "	case false:", "TestChangesOnTrial"},
	{"a transaction that does not come is not missed", "		f.done.asked, f.done.event, t.Trial = true, ev, x\n		return AskServer, nil\n", "		f.trial = nil\n		return NextFrame, nil\n", "TestChangesOnTrial"},
	{"the time of a transaction does not matter to its identity", "p.XID == xid && p.Time == time", "p.XID == xid", "TestAfterAReconnect"},
	{"a keepalive is confirmed although nothing covers it", "	if !o.ledger.Storing && !o.cfg.physical {\n", "	if !o.cfg.physical {\n", "TestCheckpointed"},
	{"a skipped message counts as stored", "	return !l.Storing || max(l.behind, l.stored.Load()) >= m.seq || l.saved >= m.lsn || l.isStoredAhead()\n", "	return true\n", "TestCheckpointed|TestSlotIsMadeOnce"},
	{"the last row does not say that it is the last", "		m.Ext = &w.ends[len(w.ends)-1]\n", "", "TestChanges$"},
	{"a torn checkpoint is read", "p.bad || c.String() != text", "p.bad", "TestTornText|TestTexts"},
	{"a Progress makes a message come again", "	f.point, f.ended = p, p.Message\n", "	f.point = p\n", "TestMessageBeforeAProgressComesOnce"},
	{"what is stored stays stored in another history", "min(l.Confirmed, lsn), min(l.saved, lsn)", "min(l.Confirmed, lsn), l.saved", "TestSkippingOverAFailover"},
	{"the stream's checkpoint is of the new server before the proof", "&resume.Source{Origin: p.Origin, Checkpoints: true}, Point: p.Point}", "c.origin, Point: p.Point}", "TestStreamCheckpointAfterAFailover"},
	{"two processes make one slot", "	return true, a.checkAlone()\n", "	return true, nil\n", "TestTwoProcessesBeginAtOnce"},
	{"what is stored meanwhile is given up", "		if stored != lost {\n", "		if looks == 0 && stored != lost {\n", "TestSubscribeAnewOfASlotThatIsInUse"},
	{"two-phase is switched on behind the checkpoint", "	if p := cp.Point; cp.Physical || p.IsComplete() && max(p.Through, p.Message) <= slot.Confirmed {\n", "	if _ = cp; true {\n", "TestTwoPhaseIsNotSwitchedOn"},
	{"a new slot behind a checkpoint", "	case cp.HasTransaction(), cp.Message != 0:", "	case false:", "TestMissingSlotAndCheckpoint"},
	{"a lost checkpoint goes unnoticed", "	case isZero && a.From == 0:", "	case false:", "TestMissingSlotAndCheckpoint"},
	{"a checkpoint of another source goes unnoticed", "*cp == (resume.Checkpoint{}) || SourceOf(cp) == s || upgraded", "true", "TestCheckpointOfAnotherSource"},
	{"nothing tells a stopping server that it may go", "	case c.Shutdown.IsNoticed(), c.IsSynchronous():\n", "	case c.IsSynchronous():\n", "TestCheckpointed"},
	{"a synchronous standby is not noticed", "	case c.Shutdown.IsNoticed(), c.IsSynchronous():\n", "	case c.Shutdown.IsNoticed():\n", "TestCheckpointed"},
}
