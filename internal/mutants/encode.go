package main

func init() {
	mutants = append(mutants, []mutant{
		// The formats.
		{"bottledwater: a position for BEGIN", "m.Tx != nil && m.Kind != walchan.Begin && m.Kind != walchan.Commit", "m.Tx != nil", "TestBottledwater"},
		{"bottledwater: no key", "	if !hasKey(rel) {", "	if true {", "TestBottledwater"},
		{"any column that differs is a key that changed", "m.Relation.Columns[i].Key && (before", "(before", "TestLargeKey"},
		{"Debezium: no placeholder", "		if r.State(i) != walchan.Unchanged {\n", "		if true {\n", "TestDebezium"},
		{"wal2json: no identity if the key stays", "m.Kind == walchan.Update && !hasOld(m)", "false && !hasOld(m)", "TestWal2JSON"},
		{"wal2json: modifiers left out", "	case c.TypeMod >= 0:", "	case false:", "TestWal2JSON"},
		{"wal2json: NaN is a number", `if v == "NaN" || `, "if ", "TestWal2JSON"},
		{"line breaks within json stay", "		if c == '\\n' || c == '\\r' {", "		if c == '\\r' {", "TestTuples"},
		{"Avro: the time goes in seconds", "v.UnixMicro()", "v.Unix()", "TestAvro"},
		{"Avro: infinity is null", "	return b, ErrRange", "	return append(b[:len(b)-1], 0), nil", "TestOnError"},

		// The exporter.
		{"a row is skipped silently", "		note(\"skipped: %s: %v\", msg, err)\n", "", "TestOnError"},
		{"what was torn stays", "	if end < size {", "	if false {", "TestKilled"},
		{"half a snapshot has the file's name", "o.partial = snapshot && !slotExists", "o.partial = false", "TestKilled|TestMistakes"},
		{"a snapshot that starts over keeps what was", "	if err := o.file.Truncate(0); err != nil {\n		return false, err\n	}\n	_, err := o.file.Seek(0, io.SeekStart)\n	return true, err\n", "	return false, nil\n", "TestSnapshotStartsOver"},
		{"the time zone is the server's", `cfg.RuntimeParams["timezone"] = "UTC"`, "", "TestSnapshotThenChanges"},
		{"tables without a key are let through later", "!x.allowUnkeyed && !keyed", "false && !keyed", "TestUnkeyed"},
		{"the schema of an altered table is not told", "old != nil && old.relation == rel", "old != nil", "TestAvro"},
	}...)
}
