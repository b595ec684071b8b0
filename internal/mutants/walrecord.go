package main

func init() { mutants = append(mutants, walrecord...) }

// The lookup of a transaction in a server's WAL.
var walrecord = []mutant{
	{"the time of a transaction does not matter", "(x.time == want.Time || x.replayed && x.originTime == want.Time)", "true", "TestParse$"},
	{"the XID of a transaction does not matter", "x.xid == want.XID && (x.time", "(x.time", "TestParse"},
	{"the time of an origin is not looked at", "x.replayed && x.originTime == want.Time", "false", "TestParse$"},
	{"PREPARE is as good as COMMIT", "		return !want.Prepared && xid == want.XID", "		return xid == want.XID", "TestParse$"},
	{"the name of a prepared transaction is not skipped", "			f.skipString()\n", "", "TestParse$"},
	{"a length in rubbish is waited for", "!f.short && uint64(begin)+uint64(n) == uint64(order.Uint32(head))", "!f.short && n > 0", "TestParseOther"},
	{"a damaged record proves something", "	if crc != p.order", "	if false && crc != p.order", "TestParseOther"},
	{"a record that was overwritten is there", " && h.info&pageOverwrites == 0", "", "TestParseBrokenRecord"},
	{"the beginning of a record suffices", "		if !h.continues(total - len(rec)) {", "		if false {", "TestParseBrokenRecord"},
	{"the first page of a segment has a short header", "		h.size = longPageHeader\n", "", "TestParse$"},
	{"any page will do", "magic != p.magic || addr != lsn", "magic != p.magic", "TestParseOther"},
	{"WAL is taken from anywhere", "			if data.WALStart != next {", "			if false {", "TestFindFaults"},
	{"a record is read without end", "		case len(wal) > most:", "		case false:", "TestFindFaults"},
	{"an answer is waited for without end", "context.WithTimeoutCause(ctx, patience, errPatience)", "context.WithCancel(ctx)", "TestFindFaults"},
}
