package main

func init() {
	mutants = append(mutants, []mutant{
		{"a worker waits behind an ALTER TABLE", "SET lock_timeout = '100ms'", "SET lock_timeout = 0", "TestSnapshotPasses"},
		{"rows of another table of the same name", "\n\t\t\tOR pg_catalog.to_regclass(pg_catalog.format('%I.%I', n.nspname, c.relname)) IS DISTINCT FROM c.oid)", ")", "TestSnapshotOfWhatIsAltered"},
		{"a table that was published since the snapshot", "	if !slices.EqualFunc(then, now, slices.Equal) {\n", "	if slices.EqualFunc(then, now, slices.Equal) && false {\n", "TestSnapshotOfWhatIsAltered"},
		{"other rows are taken for the same", "skip == 0 && hash != p.hash {", "skip == 0 && false {", "TestSnapshotWhoseRowsAreOthers"},
		{"there is no room for the second slot", "SELECT count(*) + 2 >", "SELECT count(*) + 1 >", "TestSnapshotNeedsAnotherSlot"},
		{"a dead connection is waited for", "return max(t.Receive, AskTimeout)", "return time.Hour", "TestSnapshotOverADeadConnection"},

		{"a table that was rewritten is at its end", "shape == x.target.shape && !rewritten {", "shape == x.target.shape && (true || rewritten) {", "TestReadRowsOfATableThatIsRewritten"},
		{"a column that is added is not read", "shape == x.target.shape && !rewritten {", "(true || shape == \"\") && !rewritten {", "TestReadRowsOfATableThatGetsAColumn"},
		{"a table that is gone is tried for ever", "				x.altered = true // perhaps\n", "", "TestReadRowsOfATableThatIsGone"},
		{"rows come again ahead of their turn", "		if !x.place.exhausted { // what", "		if false { // what", "TestReadRowsComeInTheOrder"},
		{"a piece has no end", "full = p.bytes > mostBytes && len(x.again) == 0; full {", "full = false; full {", "TestReadRowsOfLargeRows"},
		{"a deadline outlives the rows", "			if err := c.Arm(time.Time{}); err != nil { // or", "			if err := error(nil); err != nil { // or", "TestReadRowsFromAServerThatIsFar"},

		{"the target's own encoding", "SET client_encoding = 'UTF8'; ", "", "TestTargetOfAnotherEncoding"},
		{"a commit that is not on the disk", " WHERE current_setting('synchronous_commit') = 'off'", " WHERE false", "TestTargetWithoutSynchronousCommit"},
		{"a target that has lost changes is gone on with", "SELECT 1 / count(*) FROM stored`\n	keepPlace", "SELECT 1 FROM (SELECT count(*) FROM stored) n`\n	keepPlace", "TestTargetThatHasLost"},
		{"rows of a snapshot that is void stay", "		case s.cfg.empty:\n", "		case s.cfg.empty && snapshot.Attempt == 1:\n", "TestSnapshotThatStartsOver"},
		{"a key that cannot be moved stays where it was", "		if c.fixed && row", "		if false && row", "TestKeysOfTheTarget"},
	}...)
}
