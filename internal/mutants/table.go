package main

import "strings"

// mutants are the ways in which the code is broken, each by a mistake that somebody could make.
var mutants = append([]mutant{
	// What is confirmed.
	{"confirm the commit LSN, not the end", "	f.done.end = wal.LSN(ev.End)\n", "	f.done.end = wal.LSN(ev.LSN)\n", "TestChanges$"},
	{"confirm a keepalive at once", "		o.received(c.frame.End)\n		c.Keepalive(&c.frame)\n", "		o.ledger.Confirmed = max(o.ledger.Confirmed, c.frame.End)\n		c.Keepalive(&c.frame)\n", "TestIdleStreamConfirms|TestConfirmedKeepalive"},
	{"ignore keepalives", "		o.received(c.frame.End)\n		c.Keepalive(&c.frame)\n", "		c.Keepalive(&c.frame)\n", "TestIdleStreamConfirms|TestConfirmedFollows"},
	{"positions go back", "lsn <= last.lsn", "false", "TestLedgerIsItsModel|TestLedgerConfirmsNothing"},
	{"a mark one message too early", "marks[i].seq <= l.head && l.isStored", "marks[i].seq <= l.head+1 && l.isStored", "TestLedgerIsItsModel"},
	{"AckThrough leaves its own message", "r.c.base+uint64(r.i)+1\n", "r.c.base+uint64(r.i)\n", "TestLedgerIsItsModel|TestAckThrough"},
	{"acknowledge after the end", "func (l *Ledger) Close() { l.watch.Store(closed) }", "func (l *Ledger) Close() {}", "TestLedgerCountsWhatComesAfterItsEnd|TestCloseMakesLaterAcksVoid"},
	{"a kept receipt keeps all later ones", "l.first, old.next = old.next, nil", "l.first = old.next", "TestLedgerLetsGo"},
	{"AckThrough counts as Ack", "	l.head = min(max(l.head, l.through.Load()), l.seq)\n", "", "TestAckThrough|TestLedgerIsItsModel"},
	{"a mark one message too late", "marks[i].seq <= l.head && l.isStored", "marks[i].seq < l.head && l.isStored", "TestLedgerIsItsModel"},
	{"no last look before the sleep", "if !c.isAcked(n-1) && l.through.Load() < n {", "if true {", "TestLedgerWatchesOrHasSeen"},
	{"every acknowledgement wakes the owner", "	case from < watched && watched <= through:", "	default:", "TestLedgerWakesOnceATransaction"},
	{"an acknowledgement wakes nobody", "		l.wake()\n", "", "TestStatusFollows|TestLedgerWakesOnce"},
	{"the watched message wakes nobody", "		l.watch.Store(n)\n", "", "TestLedgerLosesNoWakeUp|TestLedgerWakes"},

	// Telling the server.
	{"no status while the consumer is blocked", "	if c.snapshot != nil {\n		return c.snapshot.attend(o, c, now)\n	}\n", "	if c.snapshot != nil {\n		return c.snapshot.attend(o, c, now)\n	}\n	if o.state == StateBlocked {\n		return now.Add(time.Hour), nil\n	}\n", "TestStatusGoesOnWhileTheConsumerIsBlocked"},
	{"status late", "return s.At.Add(coalesce)", "return s.At.Add(s.Interval)", "TestStatusFollows"},
	{"an acknowledgement does not wake the reader", "			c.Interrupt()\n", "			_ = c\n", "TestStatusFollowsAnAcknowledgement"},
	{"a sleep that is not announced", "	o.asleep.Store(how)\n", "	o.asleep.Store(awake)\n", "TestStatusFollowsAnAcknowledgement"},
	{"a sleep announced after the look", "	o.asleep.Store(how)\n	if o.ledger.WatchFor(w.interest) && !o.attention.Load() && (w.ready == nil || !w.ready()) {", "	ok := o.ledger.WatchFor(w.interest) && !o.attention.Load() && (w.ready == nil || !w.ready())\n	o.asleep.Store(how)\n	if ok {", "TestSleepIsAnnounced"},
	{"the deadline of a read set after the announcement", "	c.Gather(w.gather)\n	if err := c.Arm(w.until); err != nil {\n		return false, err\n	}\n	if !o.sleep(reading, w) {\n		return false, nil\n	}\n", "	if !o.sleep(reading, w) {\n		return false, nil\n	}\n	c.Gather(w.gather)\n	if err := c.Arm(w.until); err != nil {\n		return false, err\n	}\n", "TestStatusMissesNoAck"},
	{"no early statuses on a new connection", "min(max(s.At.Sub(s.Since), firstPause), s.Interval)", "s.Interval", "TestStatusFollowsAReconnect"},
	{"a farewell waits for more", "	c.Gather(false) // the answer is short\n", "", "TestALateStreamEndsAtOnce"},
	{"never answer the server", "		l.Status.WantsReply = true\n", "", "TestStoppingServerIsLetGo|TestLiveness"},

	{"a Unix socket stays in its epoll instance", "		syscall.EpollCtl(epoll, syscall.EPOLL_CTL_DEL, c.socket, nil)\n", "", "TestUnixConn"},
	{"a write to a Unix socket has no end", "by != 0 && ", "false && ", "TestUnixConnWriteEnds"},
	{"a record is said to be there too early", "len(b) >= 5+int(b[3])<<8+int(b[4])", "len(b) >= int(b[3])<<8+int(b[4])", "TestReadAhead"},

	// Liveness.
	{"a dead connection is not noticed", "	return Doubt, now\n", "	return None, now.Add(time.Hour)\n", "TestSilentServer|TestLivenessSuspects"},
	{"a busy server is hung up on", "	case rows[0][0] == \"Client\" || rows[0][0] == \"Activity\":", "	case true:", "TestSilentServer"},
	{"a walsender that waits counts as busy", "	case rows[0][0] == \"Client\" || rows[0][0] == \"Activity\":", "	case false:", "TestSilentServer"},
	{"a stopping server is not seen by its pings", "	case s.pings >= pingsOfStop, refused:", "	case refused:", "TestStoppingServerIsLetGo"},
	{"a stopping server is not probed", "				l.probe.refused.Store(true)\n", "", "TestShutdownIsNotHeldUp"},
	{"no grace for a stopping server", "s.leaveAt = now.Add(Grace)", "s.leaveAt = now", "TestShutdown|TestStopping"},

	// Reconnecting.
	{"repeat what was delivered", "x.begun, x.old, x.fresh = true, false, f.point.Covers(lsn)", "x.begun, x.old, x.fresh = true, false, false", "TestChangesRecognise"},
	{"one mark for messages and transactions", "		return commit < p.Commit || commit == p.Commit && p.IsComplete()", "		return commit <= p.Commit", "TestMessageAtTheCommit"},
	{"an older transaction that is new is delivered late", "		return commit < p.Commit ||", "		return commit < min(p.Through, p.Commit) ||", "TestPoint"},
	{"a message that was refused counts as delivered", "	f.current.given = f.current.was\n", "", "TestChangesRecognise"},
	{"what was delivered before a break is forgotten", "	f.in.Drop()\n	f.leave()\n", "	f.in.Drop()\n", "TestChangesRecognise"},
	{"the part of a transaction that was delivered is forgotten", "		x.skip = progress{f.point.Ordinal, f.point.Hash}\n", "", "TestChangesRecognise"},
	{"a logical message comes again", "	case m.LSN <= max(f.ended, f.point.Commit):", "	case m.LSN < max(f.ended, f.point.Commit):", "TestOnceWhereverTheConnectionBreaks|TestMessageAt"},
	{"count without comparing", "x.at.hash != x.skip.hash", "false", "TestChangesRecognise"},
	{"a transaction that ends early goes unnoticed", "case !x.old && x.at.ordinal < x.skip.ordinal && !f.point.IsBare():", "case false:", "TestTransactionSentDifferently"},
	{"redelivery is not marked", "tx.Redelivered, tx.Prepared = lsn == f.anew", "tx.Redelivered, tx.Prepared = false", "TestChangesRecognise"},
	{"resume where the slot is", "	from := min(lost.Acknowledged, max(lost.Certain, p.Commit))\n", "	from := wal.LSN(0)\n", "TestResumesAtTheLast"},
	{"another cluster goes unnoticed", "is.System.ID != was {", "false && is.System.ID != was {", "TestWhatCannotContinue"},
	{"transactions share a Tx", "it.Tx == nil || it.Tx.Number != x.number", "it.Tx == nil || x.tx == nil", "TestMessagesShareTx"},
	{"a fork goes unnoticed", "if fork < p.Needed() {", "if false {", "TestWhatCannotContinue|TestFailoverThatLost"},
	{"WAL on the new timeline is skipped", "	from := min(lost.Acknowledged, max(lost.Certain, p.Commit))\n	if p.HasTransaction() {\n		from = min(from, p.Commit)\n	}\n", "	from := lost.Acknowledged\n", "TestNewTimelineIsReadFromTheFork"},
	{"WAL behind us goes unnoticed", "if s.Flushed < p.Needed() {", "if false {", "TestWhatCannotContinue"},
	{"a moved slot goes unnoticed", "	case slot.Confirmed > p.Bound:", "	case false:", "TestWhatCannotContinue"},
	{"the delay begins anew at each attempt", "if received > o.At ||", "if true ||", "TestOutageWithoutProgress"},
	{"the delay never begins anew", "if received > o.At || lived > lasting {", "if false {", "TestReconnectsForEver"},
	{"give up after 15 minutes", "		backoff.WithMaxElapsedTime(0),\n", "", "TestReconnectsForEver"},
	{"a standby's missing slot ends the stream", "	case slot == nil && lost != nil && a.is.Standby && !lost.Remote.Standby:", "	case false:", "TestStandbyThatIsNotYetPromoted"},
	{"our own old walsender is not terminated", "if lost != nil && a.Terminate && slot.ActivePID == lost.PID {", "if false {", "TestOwnOldWalsender"},
	{"a waiting process gives up", "		case o.cfg.waitForSlot:\n", "		case false:\n", "TestSecondProcessWaits"},
	{"a temporary slot is made anew", "	if o.cfg.slot == \"\" && !o.cfg.physical {\n		return nil, slots.Lost", "	if false {\n		return nil, slots.Lost", "TestPermanentErrorOfATemporarySlot"},
	{"test_decoding: what was delivered is delivered again", "		case was.messages >= f.now.messages:\n			return f.close(t)\n", "", "TestPlugin$"},

	// What comes from the network.
	{"a malformed message is skipped", "		return nil, pgfail.Malformed(a.ev.At, err)\n	}\n	switch ev.Type {\n	case pgoutput.Insert", "		return nil, nil\n	}\n	switch ev.Type {\n	case pgoutput.Insert", "TestGarbageEnds"},
	{"a row's columns are not counted", "if ev.N != len(t.Columns) {", "if false {", "TestRowOfAnotherWidth"},
	{"a frame's length is believed", "if n < 4 || n > maxFrame {", "if n > maxFrame {", "FuzzFrames|Frame"},
	{"the end of a value is not checked", "size > uint64(len(b)-at)", "false", "Test|Fuzz"},

	// Transactions in progress, and prepared ones.
	{"a streamed transaction is confirmed before it is delivered", "	tx := f.newTx(ev, lsn)\n	tx.Redelivered", "	f.done.end = lsn + 1\n	tx := f.newTx(ev, lsn)\n	tx.Redelivered", "TestTransactionsInProgress"},
	{"an older description of a table wins", "if t.seq > a.tables[oid].seq {", "if false {", "TestTableDescribedSince"},
	{"a streamed description is forgotten", "	for oid, t := range a.before {\n", "	a.tables = a.before\n	for oid, t := range a.before {\n", "TestTableDescribedIn"},
	{"spools outlive their connection", "	a.Store.Reset()\n", "", "TestTransactionsInProgress"},
	{"the connection is not attended to while a spool is played", "if a.played >= pauseEvery {", "if false {", "TestLongPlay"},
	{"a late prepared transaction stands where it was prepared", "late := wal.LSN(ev.LSN) < a.From", "late := false", "TestTwoPhaseIsSwitchedOn|TestTransactionsInProgress"},
	{"blocks of what was acknowledged at PREPARE are delivered", "	if t != nil && !t.Prepared {", "	if false {", "TestAcknowledgedAtPrepareAndSentInBlocks"},
	{"ordinals depend on options", "			f.current.at.add(nil) // ordinals do not depend on options\n", "", "TestOrdinals"},
	{"a rolled-back prepared transaction is told again", "	case m.LSN <= max(f.ended, f.point.Commit):", "	case m.Kind != RollbackPrepared && m.LSN <= max(f.ended, f.point.Commit):", "TestTransactionsInProgress"},
	{"two-phase on a slot comes unasked", "		if err := slot.CheckUnprepared(name, version); err != nil {\n			return err\n		}\n", "		_ = version\n", "TestSlotWithTwoPhase"},
	{"a version that is missing is found by the server", "	if err := o.cfg.checkVersion(c.Version()); err != nil {\n		return err\n	}\n", "", "TestProtocolVersions"},
	{"a rolled-back savepoint is kept", "	return t.spool.cut(t.store, begin)\n", "	_ = begin\n	return nil\n", "Test"},
	{"a savepoint begins where it writes itself", "		begin = t.subs[n].begin\n", "", "Test"},
	{"XIDs do not wrap around", "int32(a-b) > 0", "a > b", "Test"},
	{"memory is not bounded", "for s.memory > s.Limit {", "for false {", "Test"},
	{"a file is left behind", "if os.Remove(p.file.Name()) != nil {", "if false {", "Test"},
	{"both layouts of an abort are taken", "		if d.Parallel {\n", "		if len(d.b) > 9 {\n", "Test"},

	// What can be seen.
	{"never idle", "o.setState(StateIdle, nil)", "_ = 0", "TestIdleStreamConfirms|TestStats"},
	{"never blocked", "		state := StateBlocked\n", "		state := StateStreaming\n", "TestStatusGoesOn|TestStats"},
	{"never unacked", "nil, ledger.Oldest, StateUnacked", "nil, ledger.Oldest, StateStreaming", "TestMaxUnacked|TestStats"},
	{"never retrying", "	o.setState(StateRetrying, why)\n", "", "TestReconnectsForEver|TestStats"},
	{"never draining", "	o.setState(StateDraining, nil)\n	var told time.Time", "	var told time.Time", "TestStop|TestStats"},
	{"never closed", "need not hold its buffers\n	o.setState(StateClosed, o.err)\n", "need not hold its buffers\n", "TestUntil|TestStats"},
	{"attempts are not counted", "	o.Attempt++\n", "", "TestReconnectsForEver|TestOutage"},
	{"the delay is not shown", "g.attempt, g.delay\n", "g.attempt, 0\n", "TestReconnectsForEver"},
	{"the error of an outage is not shown", "	g.err = err\n", "", "TestReconnectsForEver|TestStats"},
	{"reconnects are not counted", "			o.gauge.reconnects++\n", "", "TestReconnectsForEver|TestSilent|TestStats"},
	{"received is not shown", "	o.gauge.received.Store(uint64(c.Received))\n", "", "TestStats|TestIdle"},
	{"confirmed is not shown", "	o.gauge.confirmed.Store(uint64(c.Status.Told))\n", "", "TestStats|TestIdle"},
	{"lag in bytes is not shown", "		st.LagBytes = uint64(end - st.Confirmed)\n", "", "TestIdle|TestStats"},
	{"lag in time is not shown", "time.Duration(g.sendLag.Load()) + b.Age", "0", "TestStatsOldestAge"},
	{"the age of the oldest message is not shown", "				b.Age = ", "				_ = ", "TestStats|TestLedger"},
	{"unacknowledged messages are not counted", "			b.Unacked++\n", "", "TestLedger|TestStats"},
	{"a forgotten message is not logged", "b.Overtaken && b.Age >= forgottenAfter", "false", "TestForgottenMessageIsLogged"},
	{"late acknowledgements are not counted", "		l.Late.Add(1)\n", "", "TestLedgerCounts|TestCloseMakes"},
	{"the hook is not called", "	o.cfg.onState(o.Stats())\n", "", "TestReconnectsForEver|TestSilent"},
	// What the user is told, and when.
	{"every request of the server is answered at once", "		return s.At.Add(min(replyPause, s.Interval))\n", "		return s.At\n", "TestShutdownIsNotHeldUp$"},
	{"more is reported as received than was", "l.Conn.Status(l.Received, l.Status.Confirmed, now, askReply)", "l.Conn.Status(l.Received+1, l.Status.Confirmed, now, askReply)", "TestConfirmed"},
	{"what the server has as confirmed is forgotten", "	o.known = told\n", "", "TestCloseWithoutConnectionAndWithoutAcks"},
	{"the buffer is not bounded in bytes", "	return z.held == 0 || z.total+size <= z.limit", "	return true", "TestBackPressureBoundsTheBytes|TestSizes"},
	{"one message more than WithMaxUnacked", "o.ledger.Outstanding() < uint64(o.cfg.maxUnacked)", "o.ledger.Outstanding() <= uint64(o.cfg.maxUnacked)", "TestMaxUnacked|TestBackPressureWithTheSmallest"},
	{"Close waits for acknowledgements", "	s.closing.Store(true)\n", "", "TestCloseConfirmsWhatIsAcknowledged|TestStopByCloseDuringTheDrain"},
	{"Close does not say what is unconfirmed", "	if last <= o.known {", "	if true {", "TestCloseWithoutConnectionSays|TestCloseOfAServer"},
	{"a drain holds a stopping server up", "	leave, err := o.letGo(c, now)\n", "	leave, err := now.Add(time.Hour), error(nil)\n	if o.state != StateDraining {\n		leave, err = o.letGo(c, now)\n	}\n", "TestShutdownIsNotHeldUpByADrain"},
	{"Err after a stop that was asked for", "	if o.ctx.Err() == nil && !stopped {\n		o.err = err", "	if true {\n		o.err = err", "TestStop"},
	{"Flush returns before the status", "	next, err := c.Report(o.ledger.Advance(), now, flushes > 0)\n", "	o.flushes.release(flushes)\n	flushes = 0\n	next, err := c.Report(o.ledger.Advance(), now, false)\n", "TestFlushReturnsWhenTheStatusIsWritten"},
	{"a large row is kept", "	f.made.letGo()\n", "", "TestLargeRowIsLetGo"},
	{"a stop does not take in the proof", "		case feed.Settle, feed.IsBetween, feed.AcceptServer:\n", "		case feed.Settle, feed.IsBetween:\n", "TestStopTakesInTheProof"},
	{"a message that comes at once is as old as the clock", "	o.ledger.Tick(time.Now()) // what comes first is delivered before any wait\n", "", "TestStatsAge"},
	{"the age of a message counts from before the read", "	o.ledger.Tick(c.Liveness.HeardAt) // the read may have lasted\n", "", "TestStatsOldestAge"},
	{"a stop leaves the commit unread", "			o.takeIn(c, t)\n", "", "TestStopTakesIn"},
	{"what a key does not say is NULL", "		return NotSent, \"\"", "		return Null, \"\"", "TestKindsOfRows|TestKindsOfReplicaIdentity"},
	{"unchanged TOAST is NULL", "		return Unchanged, \"\"", "		return Null, \"\"", "TestKindsOfUnchangedTOAST"},
	{"unchanged TOAST is not taken from the old row", "		d.fillUnchanged(start, ev.N)\n", "", "TestKindsOfUnchangedTOAST"},
}, decisions()...)

// decisions turns each decision of the error table round: what is permanent would be retried, and the other way.
func decisions() (all []mutant) {
	for _, kind := range []string{"Options       ", "ServerVersion ", "Authentication  ", "Permission      ", "DatabaseMissing ",
		"WALLevel        ", "SlotMissing     ", "SlotExists      ", "SlotMismatch    ", "SlotLost        ", "SlotInvalidated ", "SlotMoved       ",
		"Diverged        ", "PublicationMissing ", "Publication        ", "TableMissing       ", "PluginMissing      ", "PluginOption       ", "Protocol "} {
		all = append(all, mutant{"retried: " + kind, "	" + kind + "= permanent(", "	" + kind + "= passing(", "TestIsPermanent"})
	}
	for _, kind := range []string{"Unreachable     ", "ServerDown      ", "TooManyClients  ", "NoFreeSlot      "} {
		all = append(all, mutant{"permanent: " + kind, "	" + kind + "= passing(", "	" + kind + "= permanent(", "TestIsPermanent"})
	}
	for _, state := range []string{"sqlstate.UndefinedObject", "sqlstate.NoPrivilege", "sqlstate.InvalidCatalog", "sqlstate.FeatureNotSupported"} {
		list := "case sqlstate.UndefinedObject, sqlstate.UndefinedFile, sqlstate.NoPrivilege, sqlstate.InvalidCatalog, sqlstate.DatabaseDropped, sqlstate.FeatureNotSupported:"
		all = append(all, mutant{"retried: " + state, list, strings.Replace(list, state, "\"none\"", 1), "TestIsPermanent"})
	}
	return all
}
