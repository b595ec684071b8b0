package main

// From where to where a stream goes, and what the server is asked for.
func init() {
	mutants = append(mutants, []mutant{
		{"the transaction at the end is delivered", "	if lsn >= f.until {", "	if lsn > f.until {", "TestUntil"},
		{"the end is looked for in transactions only", "	if c.Received >= o.until {\n		return nil, errEnded\n	}\n", "", "TestUntil"},
		{"a message behind the end is delivered", "	case m.LSN > f.until:\n", "	case false:\n", "TestUntil"},
		{"a raw message behind the end is delivered", "	case frame.Start > f.until:\n", "	case false:\n", "TestUntil"},
		{"the end is an error", "stopped := errors.Is(err, errStopped) || err == errEnded", "stopped := errors.Is(err, errStopped)", "TestUntil"},
		{"the end does not wait for acknowledgements", "if told.IsZero() && o.ctx.Err() != nil {", "if told.IsZero() {", "TestUntilWaits"},
		{"now is not now", "	case c.untilNow:\n		return walEnd\n", "", "TestUntilNow"},
		{"a beginning ahead of the WAL is taken", "a.From > end {", "false && a.From > end {", "TestFromRefuses"},
		{"the beginning is where the slot is", "return max(a.confirmed, a.From), nil", "return a.confirmed, nil", "TestFrom|TestUntilAndFrom"},
		{"origin is not asked for", "		args[\"origin\"] = o.Origin\n", "", "TestOrigin"},
		{"names come in the database's encoding", "	cfg.RuntimeParams[\"client_encoding\"] = \"UTF8\"\n", "", "TestDatabaseEncodings"},
		{"SQL_ASCII is taken for an encoding", "if c.Encoding() == \"SQL_ASCII\" {", "if false {", "TestDatabaseEncodings"},
		{"acknowledged before it is safe", "			err = out.line(msg.Payload())\n", "			err = out.line(msg.Payload())\n			stream.Ack(msg)\n", "TestAcknowledges"},
		{"a plugin's option without a value gets one", "		if args[k] != \"\" {\n", "		if true {\n", "TestPsycopg2StartReplicationExpert"},
	}...)
}
