package main

func init() {
	mutants = append(mutants, []mutant{
		{"a worker waits behind an ALTER TABLE", "snapread.go", "SET lock_timeout = '100ms'", "SET lock_timeout = 0", "", "TestSnapshotPasses"},
		{"rows of another table of the same name", "snapparts.go", "\n\t\t\tOR pg_catalog.to_regclass(pg_catalog.format('%I.%I', n.nspname, c.relname)) IS DISTINCT FROM c.oid)", ")", "", "TestSnapshotOfWhatIsAltered"},
		{"a table that was published since the snapshot", "snapplan.go", "	if !slices.EqualFunc(then, now, slices.Equal) {\n", "	if slices.EqualFunc(then, now, slices.Equal) && false {\n", "", "TestSnapshotOfWhatIsAltered"},
		{"other rows are taken for the same", "snapread.go", "skip == 0 && hash != p.hash {", "skip == 0 && false {", "", "TestSnapshotWhoseRowsAreOthers"},
		{"there is no room for the second slot", "snapshot.go", "SELECT count(*) + 2 >", "SELECT count(*) + 1 >", "", "TestSnapshotNeedsAnotherSlot"},
		{"a dead connection is waited for", "snapshot.go", "return max(c.timeout, awaitTimeout)", "return time.Hour", "", "TestSnapshotOverADeadConnection"},

		{"a table that was rewritten is at its end", "readtable.go", "shape == x.shape && !rewritten {", "shape == x.shape && (true || rewritten) {", "", "TestReadRowsOfATableThatIsRewritten"},
		{"a column that is added is not read", "readtable.go", "shape == x.shape && !rewritten {", "(true || shape == \"\") && !rewritten {", "", "TestReadRowsOfATableThatGetsAColumn"},
		{"a table that is gone is tried for ever", "readrows.go", "				x.altered = true // perhaps\n", "", "", "TestReadRowsOfATableThatIsGone"},
		{"rows come again ahead of their turn", "readpiece.go", "		if !x.exhausted { // what", "		if false { // what", "", "TestReadRowsComeInTheOrder"},
		{"a piece has no end", "readpiece.go", "full = p.bytes > mostBytes && len(x.again) == 0; full {", "full = false; full {", "", "TestReadRowsOfLargeRows"},
		{"a deadline outlives the rows", "internal/session/copy.go", "			if err := c.Arm(time.Time{}); err != nil { // or", "			if err := error(nil); err != nil { // or", "", "TestReadRowsFromAServerThatIsFar"},

		{"the target's own encoding", "pipeline/postgres/position.go", "SET client_encoding = 'UTF8'; ", "", "./pipeline/postgres", "TestTargetOfAnotherEncoding"},
		{"a commit that is not on the disk", "pipeline/postgres/position.go", " WHERE current_setting('synchronous_commit') = 'off'", " WHERE false", "./pipeline/postgres", "TestTargetWithoutSynchronousCommit"},
		{"a target that has lost changes is gone on with", "pipeline/postgres/place.go", "SELECT 1 / count(*) FROM stored`\n	keepPlace", "SELECT 1 FROM (SELECT count(*) FROM stored) n`\n	keepPlace", "./pipeline/postgres", "TestTargetThatHasLost"},
		{"rows of a snapshot that is void stay", "pipeline/postgres/sink.go", "s.cfg.empty && !snapshot.Among {", "s.cfg.empty && snapshot.Attempt == 1 {", "./pipeline/postgres", "TestSnapshotThatStartsOver"},
		{"a key that cannot be moved stays where it was", "pipeline/postgres/fold.go", "		if c.fixed && row", "		if false && row", "./pipeline/postgres", "TestKeysOfTheTarget"},
	}...)
}
