package main

// From where to where a stream goes, and what the server is asked for.
func init() {
	mutants = append(mutants, []mutant{
		{"the transaction at the end is delivered", "logical.go", "if LSN(ev.LSN) >= s.until {", "if LSN(ev.LSN) > s.until {", "", "TestUntil"},
		{"the end is looked for in transactions only", "stream.go", "	for c.received < s.until {", "	for {", "", "TestUntil"},
		{"a message behind the end is delivered", "logical.go", "	if m.LSN > s.until {\n		return errEnded\n	}\n", "", "", "TestUntil"},
		{"a raw message behind the end is delivered", "raw.go", "	if frame.Start > s.until {\n		return errEnded\n	}\n", "", "", "TestUntil"},
		{"the end is an error", "stream.go", "stopped := errors.Is(err, errStopped) || err == errEnded", "stopped := errors.Is(err, errStopped)", "", "TestUntil"},
		{"the end does not wait for acknowledgements", "stream.go", "if told.IsZero() && s.ctx.Err() != nil {", "if told.IsZero() {", "", "TestUntilWaits"},
		{"now is not now", "span.go", "	case c.untilNow:\n		return walEnd\n", "", "", "TestUntilNow"},
		{"a beginning ahead of the WAL is taken", "span.go", "if c.from > walEnd {", "if false {", "", "TestFromRefuses"},
		{"the beginning is where the slot is", "span.go", "return max(slot, c.from), nil", "return slot, nil", "", "TestFrom|TestUntilAndFrom"},
		{"origin is not asked for", "protocol.go", "		args[\"origin\"] = c.origin\n", "", "", "TestOrigin"},
		{"names come in the database's encoding", "connect.go", "	cfg.RuntimeParams[\"client_encoding\"] = \"UTF8\"\n", "", "", "TestDatabaseEncodings"},
		{"SQL_ASCII is taken for an encoding", "reconnect.go", "if c.Encoding() == \"SQL_ASCII\" {", "if false {", "", "TestDatabaseEncodings"},
		{"acknowledged before it is safe", "examples/recvlogical/main.go", "			err = out.line(msg.Payload())\n", "			err = out.line(msg.Payload())\n			stream.Ack(msg)\n", "examples/recvlogical", "TestAcknowledges"},
		{"a plugin's option without a value gets one", "options.go", "		if args[k] != \"\" {\n", "		if true {\n", "", "TestPsycopg2StartReplicationExpert"},
	}...)
}
