package main

import "strings"

// mutants are the ways in which the code is broken, each by a mistake that somebody could make.
var mutants = append([]mutant{
	// What is confirmed.
	{"confirm the commit LSN, not the end", "logical.go", "f.received(s, LSN(ev.End), false)", "f.received(s, LSN(ev.LSN), false)", "", "TestConfirmedTransactionIsNotSentAgain|TestConfirmedIsTheEnd"},
	{"confirm a keepalive at once", "stream.go", "			s.received(c.frame.End)\n			c.keepalive()\n", "			s.ledger.confirmed = max(s.ledger.confirmed, c.frame.End)\n			c.keepalive()\n", "", "TestIdleStreamConfirms|TestConfirmedKeepalive"},
	{"ignore keepalives", "stream.go", "			s.received(c.frame.End)\n			c.keepalive()\n", "			c.keepalive()\n", "", "TestIdleStreamConfirms|TestConfirmedFollows"},
	{"positions go back", "ack.go", "lsn <= last.lsn", "false", "", "TestLedgerIsItsModel|TestLedgerConfirmsNothing"},
	{"a mark one message too early", "ack.go", "l.marks[i].seq <= l.head", "l.marks[i].seq <= l.head+1", "", "TestLedgerIsItsModel"},
	{"AckThrough leaves its own message", "ack.go", "r.c.base+uint64(r.i)+1\n", "r.c.base+uint64(r.i)\n", "", "TestLedgerIsItsModel|TestAckThrough"},
	{"acknowledge after the end", "ack.go", "func (l *ledger) close() { l.watch.Store(closed) }", "func (l *ledger) close() {}", "", "TestLedgerCountsWhatComesAfterItsEnd|TestCloseMakesLaterAcksVoid"},
	{"a kept receipt keeps all later ones", "ack.go", "l.first, old.next = old.next, nil", "l.first = old.next", "", "TestLedgerLetsGo"},
	{"AckThrough counts as Ack", "ack.go", "	l.head = min(max(l.head, l.through.Load()), l.seq)\n", "", "", "TestAckThrough|TestLedgerIsItsModel"},
	{"a mark one message too late", "ack.go", "l.marks[i].seq <= l.head", "l.marks[i].seq < l.head", "", "TestLedgerIsItsModel"},
	{"no last look before the sleep", "ack.go", "if !c.isAcked(n-1) && l.through.Load() < n {", "if true {", "", "TestLedgerWatchesOrHasSeen"},
	{"every acknowledgement wakes the owner", "ack.go", "	case from < watched && watched <= through:", "	default:", "", "TestLedgerWakesOnceATransaction"},
	{"an acknowledgement wakes nobody", "ack.go", "		l.wake()\n", "", "", "TestStatusFollows|TestLedgerWakesOnce"},
	{"the watched message wakes nobody", "ack.go", "		l.watch.Store(n)\n", "", "", "TestLedgerLosesNoWakeUp|TestLedgerWakes"},

	// Telling the server.
	{"no status while the consumer is blocked", "stream.go", "	for now := began; ; now = time.Now() {\n		next, err := s.attend(c, now)\n", "	for now := began; ; now = time.Now() {\n		next, err := now.Add(time.Hour), s.ctx.Err()\n", "", "TestStatusGoesOnWhileTheConsumerIsBlocked"},
	{"status late", "connection.go", "return c.toldAt.Add(coalesce)", "return c.toldAt.Add(c.interval)", "", "TestStatusFollows"},
	{"an acknowledgement does not wake the reader", "stream.go", "			c.Interrupt()\n", "			_ = c\n", "", "TestStatusFollowsAnAcknowledgement"},
	{"a sleep that is not announced", "stream.go", "	s.asleep.Store(how)\n", "	s.asleep.Store(awake)\n", "", "TestStatusFollowsAnAcknowledgement"},
	{"a sleep announced after the look", "stream.go", "	s.asleep.Store(how)\n	if s.ledger.watchFor(want) && !s.attention.Load() {", "	ok := s.ledger.watchFor(want) && !s.attention.Load()\n	s.asleep.Store(how)\n	if ok {", "", "TestSleepIsAnnounced"},
	{"the deadline of a read set after the announcement", "stream.go", "		c.Gather(gather)\n		if err := c.Arm(until); err != nil {\n			return err\n		}\n		if !s.sleep(reading, c.interest()) {\n			continue\n		}\n", "		if !s.sleep(reading, c.interest()) {\n			continue\n		}\n		c.Gather(gather)\n		if err := c.Arm(until); err != nil {\n			return err\n		}\n", "", "TestStatusMissesNoAck"},
	{"no early statuses on a new connection", "connection.go", "min(max(c.toldAt.Sub(c.since), firstPause), c.interval)", "c.interval", "", "TestStatusFollowsAReconnect"},
	{"a farewell waits for more", "internal/session/session.go", "	c.Gather(false) // the answer is short\n", "", "", "TestALateStreamEndsAtOnce"},
	{"never answer the server", "connection.go", "	c.wantsReply = true\n", "", "", "TestStoppingServerIsLetGo|TestLiveness"},

	{"a Unix socket stays in its epoll instance", "internal/session/unix_linux.go", "		syscall.EpollCtl(epoll, syscall.EPOLL_CTL_DEL, c.socket, nil)\n", "", "internal/session", "TestUnixConn"},
	{"a write to a Unix socket has no end", "internal/session/unix_linux.go", "by != 0 && ", "false && ", "internal/session", "TestUnixConnWriteEnds"},
	{"a record is said to be there too early", "internal/session/ahead.go", "len(b) >= 5+int(b[3])<<8+int(b[4])", "len(b) >= int(b[3])<<8+int(b[4])", "internal/session", "TestReadAhead"},

	// Liveness.
	{"a dead connection is not noticed", "connection.go", "	if now.Before(end) {\n		return end, nil\n	}\n	dead, err", "	if end.After(now) || true {\n		return now.Add(time.Hour), nil\n	}\n	dead, err", "", "TestSilentServer"},
	{"a busy server is hung up on", "connection.go", "	case rows[0][0] == \"Client\" || rows[0][0] == \"Activity\":", "	case true:", "", "TestSilentServer"},
	{"a walsender that waits counts as busy", "connection.go", "	case rows[0][0] == \"Client\" || rows[0][0] == \"Activity\":", "	case false:", "", "TestSilentServer"},
	{"a stopping server is not seen by its pings", "connection.go", "c.pings >= pingsOfStop", "false", "", "TestStoppingServerIsLetGo"},
	{"a stopping server is not probed", "connection.go", "			c.refused.Store(true)\n", "", "", "TestShutdownIsNotHeldUp"},
	{"no grace for a stopping server", "connection.go", "c.leaveAt = now.Add(grace)", "c.leaveAt = now", "", "TestShutdown|TestStopping"},

	// Reconnecting.
	{"repeat what was delivered", "logical.go", "f.old = f.point.Covers(f.tx.CommitLSN)", "f.old = false", "", "TestEachChangeOnce"},
	{"one mark for messages and transactions", "internal/resume/point.go", "		return commit < p.Commit || commit == p.Commit && p.IsComplete()", "		return commit <= p.Commit", "", "TestMessageAtTheCommit"},
	{"an older transaction that is new is delivered late", "internal/resume/point.go", "		return commit < p.Commit ||", "		return commit < min(p.Through, p.Commit) ||", "internal/resume", "TestPoint"},
	{"the part of a transaction that was delivered is forgotten", "logical.go", "		f.skip = progress{f.point.Ordinal, f.point.Hash}\n", "", "", "TestEachChangeOnce"},
	{"a logical message comes again", "logical.go", "	if m.LSN <= max(f.ended, f.point.Commit) {", "	if m.LSN < max(f.ended, f.point.Commit) {", "", "TestOnceWhereverTheConnectionBreaks|TestMessageAt"},
	{"count without comparing", "logical.go", "f.at.hash != f.skip.hash", "false", "", "TestTransactionSentDifferently"},
	{"a transaction that ends early goes unnoticed", "logical.go", "case !f.old && f.at.ordinal < f.skip.ordinal && !f.point.IsBare():", "case false:", "", "TestTransactionSentDifferently"},
	{"redelivery is not marked", "logical.go", "f.tx.Redelivered = f.tx.CommitLSN == f.anew", "f.tx.Redelivered = false", "", "TestTransactionSentDifferently"},
	{"resume where the slot is", "reconnect.go", "	from := min(s.ledger.advance(), max(s.certain(), p.Commit))\n", "	from := LSN(0)\n", "", "TestResumesAtTheLast"},
	{"another cluster goes unnoticed", "reconnect.go", "} else if system.ID != s.source.SystemID {", "} else if false {", "", "TestWhatCannotContinue"},
	{"a fork goes unnoticed", "internal/resume/judge.go", "if fork < p.Needed() {", "if false {", "", "TestWhatCannotContinue|TestFailoverThatLost"},
	{"WAL on the new timeline is skipped", "reconnect.go", "	from := min(s.ledger.advance(), max(s.certain(), p.Commit))\n	if p.HasTransaction() {\n		from = min(from, p.Commit)\n	}\n", "	from := s.ledger.advance()\n", "", "TestNewTimelineIsReadFromTheFork"},
	{"WAL behind us goes unnoticed", "internal/resume/judge.go", "if s.Flushed < p.Needed() {", "if false {", "", "TestWhatCannotContinue"},
	{"a moved slot goes unnoticed", "prove.go", "	if slot.confirmed > p.bound {", "	if false {", "", "TestWhatCannotContinue"},
	{"the delay begins anew at each attempt", "reconnect.go", "if c.received > o.at ||", "if true ||", "", "TestOutageWithoutProgress"},
	{"the delay never begins anew", "reconnect.go", "if c.received > o.at || time.Since(c.since) > lasting {", "if false {", "", "TestReconnectsForEver"},
	{"give up after 15 minutes", "reconnect.go", "		backoff.WithMaxElapsedTime(0),\n", "", "", "TestReconnectsForEver"},
	{"a standby's missing slot ends the stream", "slot.go", "	case slot == nil && lost != nil && c.standby && !lost.standby:", "	case false:", "", "TestStandbyThatIsNotYetPromoted"},
	{"our own old walsender is not terminated", "slot.go", "if lost != nil && s.cfg.terminateOld && slot.activePID == lost.PID() {", "if false {", "", "TestOwnOldWalsender"},
	{"a waiting process gives up", "reconnect.go", "err == nil || !s.cfg.waitForSlot ||", "true ||", "", "TestSecondProcessWaits"},
	{"a temporary slot is made anew", "reconnect.go", "	if s.cfg.slot == \"\" && !s.cfg.physical {\n		return nil, &Error{Kind: ErrSlotLost", "	if false {\n		return nil, &Error{Kind: ErrSlotLost", "", "TestPermanentErrorOfATemporarySlot"},
	{"test_decoding: what was delivered is delivered again", "raw.go", "	case was.messages < f.now.messages:", "	default:", "", "TestOnceWhereverTheConnectionBreaksWithTestDecoding"},

	// What comes from the network.
	{"a malformed message is skipped", "logical.go", "	ev, err := f.decoder.Decode(frame.Data)\n	if err != nil {\n", "	ev, err := f.decoder.Decode(frame.Data)\n	if err != nil {\n		return nil\n", "", "TestGarbageEnds"},
	{"a row's columns are not counted", "tables.go", "if columns >= 0 && columns != len(r.Columns) {", "if false {", "", "TestRowOfAnotherWidth"},
	{"a frame's length is believed", "internal/session/reader.go", "if n < 4 || n > maxFrame {", "if n > maxFrame {", "internal/session", "FuzzFrames|Frame"},
	{"the end of a value is not checked", "internal/pgoutput/pgoutput.go", "size > uint64(len(b)-at)", "false", "internal/pgoutput", "Test|Fuzz"},

	// Transactions in progress, and prepared ones.
	{"a streamed transaction is confirmed before it is delivered", "inprogress.go", "	last, end := *m, *ev // playing overwrites them\n", "	last, end := *m, *ev\n	s.received(LSN(ev.End))\n", "", "TestTransactionsInProgress"},
	{"an older description of a table wins", "tables.go", "if t.seq > f.relations[oid].seq {", "if false {", "", "TestTableDescribedSince"},
	{"a streamed description is forgotten", "inprogress.go", "	f.keepNewer(before)\n", "	f.relations, f.last = before, nil\n", "", "TestTableDescribedIn"},
	{"spools outlive their connection", "logical.go", "	f.spools.Reset()\n", "", "", "TestTransactionsInProgress"},
	{"the connection is not attended to while a spool is played", "inprogress.go", "if n += len(rec.Data); n >= attendEvery {", "if n < 0 {", "", "TestLongPlay"},
	{"a late prepared transaction stands where it was prepared", "twophase.go", "late := LSN(ev.LSN) < f.from", "late := false", "", "TestTwoPhaseIsSwitchedOn|TestTransactionsInProgress"},
	{"blocks of what was acknowledged at PREPARE are delivered", "twophase.go", "if t == nil || !t.Prepared {", "if t == nil {", "", "TestAcknowledgedAtPrepareAndSentInBlocks"},
	{"ordinals depend on options", "twophase.go", "		f.at.add(nil) // ordinals do not depend on options\n", "", "", "TestOrdinals"},
	{"a rolled-back prepared transaction is told again", "twophase.go", "return f.single(s, m)", "return s.deliver(m)", "", "TestTransactionsInProgress"},
	{"two-phase on a slot comes unasked", "slot.go", "	if err := s.cfg.checkTwoPhase(slot, name, version); err != nil {\n		return 0, err\n	}\n", "	_ = version\n", "", "TestSlotWithTwoPhase"},
	{"a version that is missing is found by the server", "reconnect.go", "	if err := s.cfg.checkVersion(c.Version()); err != nil {\n		return err\n	}\n", "", "", "TestProtocolVersions"},
	{"a rolled-back savepoint is kept", "internal/txn/txn.go", "	return t.spool.cut(t.store, begin)\n", "	_ = begin\n	return nil\n", "internal/txn", "Test"},
	{"a savepoint begins where it writes itself", "internal/txn/txn.go", "		begin = t.subs[n].begin\n", "", "internal/txn", "Test"},
	{"XIDs do not wrap around", "internal/txn/txn.go", "int32(a-b) > 0", "a > b", "internal/txn", "Test"},
	{"memory is not bounded", "internal/txn/store.go", "for s.memory > s.Limit {", "for false {", "internal/txn", "Test"},
	{"a file is left behind", "internal/txn/spool.go", "if os.Remove(p.file.Name()) != nil {", "if false {", "internal/txn", "Test"},
	{"both layouts of an abort are taken", "internal/pgoutput/pgoutput.go", "		if d.Parallel {\n", "		if len(d.b) > 9 {\n", "internal/pgoutput", "Test"},

	// What can be seen.
	{"never idle", "stream.go", "s.setState(StateIdle, nil)", "_ = 0", "", "TestIdleStreamConfirms|TestStats"},
	{"never blocked", "stream.go", "StateBlocked", "StateStreaming", "", "TestStatusGoesOn|TestStats"},
	{"never unacked", "stream.go", "StateUnacked", "StateStreaming", "", "TestMaxUnacked|TestStats"},
	{"never retrying", "reconnect.go", "	s.setState(StateRetrying, why)\n", "", "", "TestReconnectsForEver|TestStats"},
	{"never draining", "stream.go", "	s.setState(StateDraining, nil)\n", "", "", "TestStop|TestStats"},
	{"never closed", "stream.go", "need not hold its buffers\n	s.setState(StateClosed, s.err)\n", "need not hold its buffers\n", "", "TestUntil|TestStats"},
	{"attempts are not counted", "reconnect.go", "	o.attempt++\n", "", "", "TestReconnectsForEver|TestOutage"},
	{"the delay is not shown", "stats.go", "g.attempt, g.delay\n", "g.attempt, 0\n", "", "TestReconnectsForEver"},
	{"the error of an outage is not shown", "stats.go", "	g.err = err\n", "", "", "TestReconnectsForEver|TestStats"},
	{"reconnects are not counted", "reconnect.go", "			s.gauge.reconnects++\n", "", "", "TestReconnectsForEver|TestSilent|TestStats"},
	{"received is not shown", "stats.go", "	s.gauge.received.Store(uint64(c.received))\n", "", "", "TestStats|TestIdle"},
	{"confirmed is not shown", "stats.go", "	s.gauge.confirmed.Store(uint64(c.told))\n", "", "", "TestStats|TestIdle"},
	{"lag in bytes is not shown", "stats.go", "		st.LagBytes = uint64(end - st.Confirmed)\n", "", "", "TestIdle|TestStats"},
	{"lag in time is not shown", "stats.go", "time.Duration(g.sendLag.Load()) + b.age", "0", "", "TestStatsOldestAge"},
	{"the age of the oldest message is not shown", "ack.go", "				b.age = ", "				_ = ", "", "TestStats|TestLedger"},
	{"unacknowledged messages are not counted", "ack.go", "			b.unacked++\n", "", "", "TestLedger|TestStats"},
	{"a forgotten message is not logged", "stats.go", "b.overtaken && b.age >= forgottenAfter", "false", "", "TestForgottenMessageIsLogged"},
	{"late acknowledgements are not counted", "ack.go", "		l.late.Add(1)\n", "", "", "TestLedgerCounts|TestCloseMakes"},
	{"the hook is not called", "stats.go", "	s.cfg.onState(s.Stats())\n", "", "", "TestReconnectsForEver|TestSilent"},
	// What the user is told, and when.
	{"every request of the server is answered at once", "connection.go", "		return c.toldAt.Add(min(replyPause, c.interval))\n", "		return c.toldAt\n", "", "TestShutdownIsNotHeldUp$"},
	{"more is reported as received than was", "connection.go", "c.Status(c.received, c.confirmed, now, askReply)", "c.Status(c.received+1, c.confirmed, now, askReply)", "", "TestConfirmed"},
	{"after a reconnect the server counts as told", "reconnect.go", "	if lost == nil {\n		c.told = from\n	}\n", "	c.told = from\n", "", "TestStatusFollowsAReconnect|TestConfirmedWithoutDelay"},
	{"the buffer is not bounded in bytes", "stream.go", "	return z.held == 0 || z.total+size <= z.limit", "	return true", "", "TestBackPressureBoundsTheBytes|TestSizes"},
	{"one message more than WithMaxUnacked", "stream.go", "s.ledger.outstanding() < uint64(s.cfg.maxUnacked)", "s.ledger.outstanding() <= uint64(s.cfg.maxUnacked)", "", "TestMaxUnacked|TestBackPressureWithTheSmallest"},
	{"Close waits for acknowledgements", "stream.go", "	s.closing.Store(true)\n", "", "", "TestCloseConfirmsWhatIsAcknowledged|TestStopByCloseDuringTheDrain"},
	{"Close does not say what is unconfirmed", "stream.go", "	if last <= s.known {", "	if true {", "", "TestCloseWithoutConnectionSays|TestCloseOfAServer"},
	{"a drain holds a stopping server up", "stream.go", "		leave, err := c.shutdown(s, now)\n		if err != nil {\n			return nil", "		leave, err := end, error(nil)\n		if err != nil {\n			return nil", "", "TestShutdownIsNotHeldUpByADrain"},
	{"Err after a stop that was asked for", "stream.go", "	if s.ctx.Err() == nil && !stopped {\n		s.err = err", "	if true {\n		s.err = err", "", "TestStop"},
	{"Flush returns before the status", "stream.go", "	next, err := c.report(min(s.ledger.advance(), c.limit), now, flushes > 0)\n", "	s.flushes.release(flushes)\n	flushes = 0\n	next, err := c.report(min(s.ledger.advance(), c.limit), now, false)\n", "", "TestFlushReturnsWhenTheStatusIsWritten"},
	{"the age of a message counts from before the read", "stream.go", "			s.ledger.tick(c.heardAt) // the read may have lasted\n", "", "", "TestStatsOldestAge"},
	{"a stop leaves the commit unread", "stream.go", "				s.takeIn(c)\n", "", "", "TestStopTakesIn"},
	{"what a key does not say is NULL", "row.go", "		return NotSent, \"\"", "		return Null, \"\"", "", "TestKindsOfRows|TestKindsOfReplicaIdentity"},
	{"unchanged TOAST is NULL", "row.go", "		return Unchanged, \"\"", "		return Null, \"\"", "", "TestKindsOfUnchangedTOAST"},
	{"unchanged TOAST is not taken from the old row", "internal/pgoutput/pgoutput.go", "		d.fillUnchanged(start, ev.N)\n", "", "", "TestKindsOfUnchangedTOAST"},
}, decisions()...)

// decisions turns each decision of the error table round: what is permanent would be retried, and the other way.
func decisions() (all []mutant) {
	for _, kind := range []string{"ErrOptions       ", "ErrServerVersion ", "ErrAuthentication  ", "ErrPermission      ", "ErrDatabaseMissing ",
		"ErrWALLevel        ", "ErrSlotMissing     ", "ErrSlotExists      ", "ErrSlotMismatch    ", "ErrSlotLost        ", "ErrSlotInvalidated ", "ErrSlotMoved       ",
		"ErrDiverged        ", "ErrPublicationMissing ", "ErrPublication        ", "ErrTableMissing       ", "ErrPluginMissing      ", "ErrPluginOption       ", "ErrProtocol "} {
		all = append(all, mutant{"retried: " + kind, "errors.go", "	" + kind + "= permanent(", "	" + kind + "= passing(", "", "TestIsPermanent"})
	}
	for _, kind := range []string{"ErrUnreachable     ", "ErrTLS             ", "ErrServerDown      ", "ErrTooManyClients  ", "ErrSlotActive      ", "ErrNoFreeSlot      "} {
		all = append(all, mutant{"permanent: " + kind, "errors.go", "	" + kind + "= passing(", "	" + kind + "= permanent(", "", "TestIsPermanent"})
	}
	for _, state := range []string{"stateUndefinedObject", "stateUndefinedFile", "stateNoPrivilege", "stateInvalidCatalog", "stateDatabaseDropped", "stateFeatureNotSupported"} {
		list := "case stateUndefinedObject, stateUndefinedFile, stateNoPrivilege, stateInvalidCatalog, stateDatabaseDropped, stateFeatureNotSupported:"
		all = append(all, mutant{"retried: " + state, "reconnect.go", list, strings.Replace(list, state, "\"none\"", 1), "", "TestIsPermanent"})
	}
	return all
}
