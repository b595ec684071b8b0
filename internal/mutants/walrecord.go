package main

func init() { mutants = append(mutants, walrecord...) }

// The lookup of a transaction in a server's WAL.
var walrecord = []mutant{
	{"the time of a transaction does not matter", "internal/walrecord/parse.go", "(x.time == want.Time || x.replayed && x.originTime == want.Time)", "true", "internal/walrecord", "TestParse$"},
	{"the XID of a transaction does not matter", "internal/walrecord/parse.go", "x.xid == want.XID && (x.time", "(x.time", "internal/walrecord", "TestParse"},
	{"the time of an origin is not looked at", "internal/walrecord/parse.go", "x.replayed && x.originTime == want.Time", "false", "internal/walrecord", "TestParse$"},
	{"PREPARE is as good as COMMIT", "internal/walrecord/parse.go", "		return !want.Prepared && xid == want.XID", "		return xid == want.XID", "internal/walrecord", "TestParse$"},
	{"the name of a prepared transaction is not skipped", "internal/walrecord/parse.go", "			f.skipString()\n", "", "internal/walrecord", "TestParse$"},
	{"a length in rubbish is waited for", "internal/walrecord/parse.go", "!f.short && uint64(begin)+uint64(n) == uint64(order.Uint32(head))", "!f.short && n > 0", "internal/walrecord", "TestParseOther"},
	{"a damaged record proves something", "internal/walrecord/parse.go", "	if crc != p.order", "	if false && crc != p.order", "internal/walrecord", "TestParseOther"},
	{"a record that was overwritten is there", "internal/walrecord/page.go", " && h.info&pageOverwrites == 0", "", "internal/walrecord", "TestParseBrokenRecord"},
	{"the beginning of a record suffices", "internal/walrecord/page.go", "		if !h.continues(total - len(rec)) {", "		if false {", "internal/walrecord", "TestParseBrokenRecord"},
	{"the first page of a segment has a short header", "internal/walrecord/page.go", "		h.size = longPageHeader\n", "", "internal/walrecord", "TestParse$"},
	{"any page will do", "internal/walrecord/page.go", "magic != p.magic || addr != lsn", "magic != p.magic", "internal/walrecord", "TestParseOther"},
	{"WAL is taken from anywhere", "internal/walrecord/walrecord.go", "			if data.WALStart != next {", "			if false {", "internal/walrecord", "TestFindFaults"},
	{"a record is read without end", "internal/walrecord/walrecord.go", "		case len(wal) > most:", "		case false:", "internal/walrecord", "TestFindFaults"},
	{"an answer is waited for without end", "internal/walrecord/walrecord.go", "context.WithTimeoutCause(ctx, patience, errPatience)", "context.WithCancel(ctx)", "internal/walrecord", "TestFindFaults"},
}
