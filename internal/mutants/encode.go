package main

func init() {
	mutants = append(mutants, []mutant{
		// The formats.
		{"bottledwater: a position for BEGIN", "pipeline/encode/bottledwater.go", "m.Tx != nil && m.Kind != walchan.Begin && m.Kind != walchan.Commit", "m.Tx != nil", "pipeline/encode", "TestBottledwater"},
		{"bottledwater: no key", "pipeline/encode/bottledwater.go", "	if !hasKey(rel) {", "	if true {", "pipeline/encode", "TestBottledwater"},
		{"any column that differs is a key that changed", "pipeline/encode/key.go", "m.Relation.Columns[i].Key && (before", "(before", "pipeline/encode", "TestLargeKey"},
		{"Debezium: no placeholder", "pipeline/encode/debezium.go", "		if r.State(i) != walchan.Unchanged {\n", "		if true {\n", "pipeline/encode", "TestDebezium"},
		{"wal2json: no identity if the key stays", "pipeline/encode/wal2json.go", "m.Kind == walchan.Update && !hasOld(m)", "false && !hasOld(m)", "pipeline/encode", "TestWal2JSON"},
		{"wal2json: modifiers left out", "pipeline/encode/wal2json_type.go", "	case c.TypeMod >= 0:", "	case false:", "pipeline/encode", "TestWal2JSON"},
		{"wal2json: NaN is a number", "pipeline/encode/wal2json_type.go", `if v == "NaN" || `, "if ", "pipeline/encode", "TestWal2JSON"},
		{"line breaks within json stay", "json.go", "		if c == '\\n' || c == '\\r' {", "		if c == '\\r' {", "pipeline/encode", "TestTuples"},
		{"Avro: the time goes in seconds", "pipeline/encode/avro.go", "v.UnixMicro()", "v.Unix()", "examples/bottledwater", "TestAvro"},
		{"Avro: infinity is null", "pipeline/encode/avro.go", "	return b, ErrRange", "	return append(b[:len(b)-1], 0), nil", "examples/bottledwater", "TestOnError"},

		// The exporter.
		{"a row is skipped silently", "examples/bottledwater/export.go", "		note(\"skipped: %s: %v\", msg, err)\n", "", "examples/bottledwater", "TestOnError"},
		{"what was torn stays", "examples/bottledwater/output.go", "	if end < size {", "	if false {", "examples/bottledwater", "TestKilled"},
		{"half a snapshot has the file's name", "examples/bottledwater/output.go", "o.partial = snapshot && !slotExists", "o.partial = false", "examples/bottledwater", "TestKilled|TestMistakes"},
		{"a snapshot that starts over keeps what was", "examples/bottledwater/output.go", "	if err := o.file.Truncate(0); err != nil {\n		return false, err\n	}\n	_, err := o.file.Seek(0, io.SeekStart)\n	return true, err\n", "	return false, nil\n", "examples/bottledwater", "TestSnapshotStartsOver"},
		{"the time zone is the server's", "examples/bottledwater/run.go", `cfg.RuntimeParams["timezone"] = "UTC"`, "", "examples/bottledwater", "TestSnapshotThenChanges"},
		{"tables without a key are let through later", "examples/bottledwater/export.go", "!x.allowUnkeyed && !keyed", "false && !keyed", "examples/bottledwater", "TestUnkeyed"},
		{"the schema of an altered table is not told", "examples/bottledwater/container.go", "old != nil && old.relation == rel", "old != nil", "examples/bottledwater", "TestAvro"},
	}...)
}
