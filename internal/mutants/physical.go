package main

func init() { mutants = append(mutants, physical...) }

// Physical streaming, and commands.
var physical = []mutant{
	{"WAL is never confirmed", "t.settled(p.Through, f.confirmable(p), &f.now)", "t.settled(p.Through, 0, nil)", "TestPhysicalWhereverTheConnectionBreaks"},
	{"WAL is confirmed when it is received", "			err = o.handOver(t.Item)\n		case", "			o.ledger.Mark(t.Item.LSN + LSN(len(t.Item.Data)))\n			err = o.handOver(t.Item)\n		case", "TestPhysicalConfirmsWhatIsAcknowledged"},
	{"WAL comes again after a reconnect", "	f.wal, f.at, f.expect, f.now = nil, p.Through, p.Through, p\n", "	f.wal, f.at, f.expect, f.now = nil, p.Through-p.Through%f.Segment, p.Through, p\n", "TestPhysicalWhereverTheConnectionBreaks"},
	{"WAL behind a fork is asked for on the new timeline", "		case p.At > fork:", "		case false:", "TestPhysicalFollowsATimeline"},
	{"a server that lacks the WAL is streamed from", "	case p.At <= system.Flushed:", "	case true:", "TestPhysicalFollowsATimeline"},
	{"a new timeline begins in the middle of a segment", "resume.TimelineAfter(p.Timeline, history, system.Timeline), round(fork)", "resume.TimelineAfter(p.Timeline, history, system.Timeline), fork", "TestPhysicalWholeSegments"},
	{"no history", "	if f.LacksHistory() {", "	if false {", "TestPhysicalFollowsATimeline"},
	{"the history comes with each connection", "	if f.LacksHistory() {", "	if true {", "TestPhysicalFollowsATimeline"},
	{"the end of a timeline is a failure", "		return ErrCopyDone\n", "		return ErrServerStopped\n", "TestPhysicalFollowsATimeline"},
	{"the timeline is guessed", "		if lsn < b.end {", "		if false {", "TestPhysicalFollowsATimeline"},
	{"more than its own position is confirmed", "	c.Status.Confirmed = min(o.ledger.Advance(), c.Limit)", "	o.ledger.Mark(system.Flushed)\n	c.Status.Confirmed = min(o.ledger.Advance(), c.Limit)", "TestPhysicalConfirmsWhatIsAcknowledged"},
	{"the beginning of a segment is not asked for again", "		f.trial, f.expect = &logTrial{timeline: f.last.Timeline}, f.last.From\n", "", "TestLog$"},
	{"other WAL is accepted", "	case f.trial.hash != f.last.Hash:", "	case false:", "TestLog$"},
	{"the hash is that of one page", "	if first := p.Through - 1 - (p.Through-1)%segment;", "	if first := p.Through - 1 - (p.Through-1)%8192;", "TestPhysicalTwinIsRefused"},
	{"the end of a segment is confirmed", "		return p.Through - 1\n", "		return p.Through\n", "TestPhysicalEndOfASegment"},
	{"the position is told before the proof", "		c.Limit = cmp.Or(slot, from)\n", "", "TestPhysicalVolumePutBackIsRefused"},
	{"the proof is made on the next timeline", "&logTrial{timeline: f.last.Timeline}", "&logTrial{timeline: f.timeline}", "TestPhysicalGoesOnWhereATimelineEnds"},
	{"a timeline's end is proven again", "	trusted := f.left.leadsTo(address)\n", "	trusted := f.left.leadsTo(address) && false\n", "TestPhysicalGoesOnWhereATimelineEnds"},
	{"WAL that is removed ends the stream", "	if !f.IsOnTrial() {\n		return begin.WALRemoved(err)", "	if true {\n		return begin.WALRemoved(err)", "TestPhysicalUnproven"},
	{"the checkpoint is asked for once", "	if o.cfg.slot == \"\" || c.made {\n		return nil", "	if true {\n		return nil", "TestPhysicalCheckpointIsReadAgain"},
	{"the history does not come again after its checkpoint", "&Piece{f.timeline, f.last}}", "&Piece{f.timeline, f.now}}", "TestPhysicalCheckpoints"},
	{"options of the other kind are ignored", "		if o.is {", "		if false {", "TestPhysicalErrors"},
	{"a temporary slot for physical streaming", "	if o.source.Slot == \"\" && !o.cfg.physical {", "	if o.source.Slot == \"\" {", "TestPhysicalBeginsNow"},
	{"a version that is missing is found by the server, for a slot", "	if err := n.checkVersion(a.Conn); err != nil {", "	if err := error(nil); err != nil {", "TestNewSlot"},
	{"nobody waits for the end of a slot's use", "		command += \" WAIT\"\n", "", "TestDropSlotWait"},
	{"an archive begins its last segment again", "			a.start += size\n", "", "TestWhereAnArchiveEnds"},
	{"an archive goes on behind a partial segment", "		if whole {\n			a.start += size\n		}\n", "		a.start += size\n", "TestWhereAnArchiveEnds"},
	{"an archive is not compared", "		if b != 0 && b != wal[i] {", "		if false {", "TestOtherHistoryIsRefused"},
	{"a segment stays partial", "		if at%a.size == 0 {", "		if false {", "TestKilledAndResumed"},
	{"a whole segment is enough to be acknowledged", "			due = due || f.synchronous && len(stream.C()) == 0\n", "", "TestSynchronousStandby"},
}
