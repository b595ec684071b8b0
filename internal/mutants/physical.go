package main

func init() { mutants = append(mutants, physical...) }

// Physical streaming, and commands.
var physical = []mutant{
	{"WAL is never confirmed", "physical.go", "	s.received(f.at)\n", "", "", "TestPhysicalWhereverTheConnectionBreaks"},
	{"WAL is confirmed when it is received", "physical.go", "	*m = Message{Kind: WAL,", "	s.received(frame.Start + LSN(len(frame.Data)))\n	*m = Message{Kind: WAL,", "", "TestPhysicalConfirmsWhatIsAcknowledged"},
	{"WAL comes again after a reconnect", "physical.go", "	f.at = m.End()\n", "	f.at = m.End()\n	f.at -= f.at % f.segment\n", "", "TestPhysicalWhereverTheConnectionBreaks"},
	{"WAL behind a fork is asked for on the new timeline", "physical_start.go", "		case f.at > fork:", "		case false:", "", "TestPhysicalFollowsATimeline"},
	{"a server that lacks the WAL is streamed from", "physical_start.go", "	case f.at <= system.Flushed:", "	case true:", "", "TestPhysicalFollowsATimeline"},
	{"a new timeline begins in the middle of a segment", "physical_start.go", "resume.TimelineAfter(f.timeline, history, system.Timeline), f.round(fork)", "resume.TimelineAfter(f.timeline, history, system.Timeline), fork", "", "TestPhysicalWholeSegments"},
	{"no history", "physical_start.go", "	if f.timeline != f.historyOf {", "	if false {", "", "TestPhysicalFollowsATimeline"},
	{"the history comes with each connection", "physical_start.go", "	if f.timeline != f.historyOf {", "	if true {", "", "TestPhysicalFollowsATimeline"},
	{"the end of a timeline is a failure", "internal/session/session.go", "		return ErrCopyDone\n", "		return ErrServerStopped\n", "", "TestPhysicalFollowsATimeline"},
	{"the timeline is guessed", "internal/resume/timeline.go", "		if lsn < b.end {", "		if false {", "", "TestPhysicalFollowsATimeline"},
	{"more than its own position is confirmed", "physical_start.go", "	s.started(c, lost, system, f.at)\n", "	s.started(c, lost, system, system.Flushed)\n", "", "TestPhysicalConfirmsWhatIsAcknowledged"},
	{"options of the other kind are ignored", "physical.go", "		if o.is {", "		if false {", "", "TestPhysicalErrors"},
	{"a temporary slot for physical streaming", "reconnect.go", "	if s.source.Slot == \"\" && !s.cfg.physical {", "	if s.source.Slot == \"\" {", "", "TestPhysicalBeginsNow"},
	{"a version that is missing is found by the server, for a slot", "newslot.go", "	if err := n.checkVersion(c.Conn); err != nil {", "	if err := error(nil); err != nil {", "", "TestNewSlot"},
	{"nobody waits for the end of a slot's use", "slots.go", "[]string{\"\", \" WAIT\"}[btoi(wait)]", "\"\"", "", "TestDropSlotWait"},
	{"an archive begins its last segment again", "examples/receivewal/archive.go", "			a.start += size\n", "", "examples/receivewal", "TestWhereAnArchiveEnds"},
	{"an archive goes on behind a partial segment", "examples/receivewal/archive.go", "		if whole {\n			a.start += size\n		}\n", "		a.start += size\n", "examples/receivewal", "TestWhereAnArchiveEnds"},
	{"a segment stays partial", "examples/receivewal/archive.go", "		if at%a.size == 0 {", "		if false {", "examples/receivewal", "TestKilledAndResumed"},
	{"a whole segment is enough to be acknowledged", "examples/receivewal/main.go", "			due = due || f.synchronous && len(stream.C()) == 0\n", "", "examples/receivewal", "TestSynchronousStandby"},
}
