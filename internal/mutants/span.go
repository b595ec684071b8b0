package main

// From where to where a stream goes, and what the server is asked for.
func init() {
	mutants = append(mutants, []mutant{
		{"the transaction at the end is delivered", "if LSN(ev.LSN) >= s.until {", "if LSN(ev.LSN) > s.until {", "TestUntil"},
		{"the end is looked for in transactions only", "	for c.received < s.until {", "	for {", "TestUntil"},
		{"a message behind the end is delivered", "	if m.LSN > s.until {\n		return errEnded\n	}\n", "", "TestUntil"},
		{"a raw message behind the end is delivered", "	if frame.Start > s.until {\n		return errEnded\n	}\n", "", "TestUntil"},
		{"the end is an error", "stopped := errors.Is(err, errStopped) || err == errEnded", "stopped := errors.Is(err, errStopped)", "TestUntil"},
		{"the end does not wait for acknowledgements", "if told.IsZero() && s.ctx.Err() != nil {", "if told.IsZero() {", "TestUntilWaits"},
		{"now is not now", "	case c.untilNow:\n		return walEnd\n", "", "TestUntilNow"},
		{"a beginning ahead of the WAL is taken", "if c.from > walEnd {", "if false {", "TestFromRefuses"},
		{"the beginning is where the slot is", "return max(slot, c.from), nil", "return slot, nil", "TestFrom|TestUntilAndFrom"},
		{"origin is not asked for", "		args[\"origin\"] = c.origin\n", "", "TestOrigin"},
		{"names come in the database's encoding", "	cfg.RuntimeParams[\"client_encoding\"] = \"UTF8\"\n", "", "TestDatabaseEncodings"},
		{"SQL_ASCII is taken for an encoding", "if c.Encoding() == \"SQL_ASCII\" {", "if false {", "TestDatabaseEncodings"},
		{"acknowledged before it is safe", "			err = out.line(msg.Payload())\n", "			err = out.line(msg.Payload())\n			stream.Ack(msg)\n", "TestAcknowledges"},
		{"a plugin's option without a value gets one", "		if args[k] != \"\" {\n", "		if true {\n", "TestPsycopg2StartReplicationExpert"},
	}...)
}
