package main

func init() {
	mutants = append(mutants, []mutant{
		{"a worker that finds no snapshot ends the stream", "e.Kind, e.Advice = walerr.Unreachable, \"it is gone", "e.Advice = \"it is gone", "TestSnapshotThatIsGone"},
		{"a permanent slot before the rows are acknowledged", "		if o.isSettled(p) {\n			return w, true, nil", "		if true {\n			return w, true, nil", "TestSnapshotComesBeforeTheChanges"},
		{"a lost snapshot goes unnoticed", "	if err := c.Check(); err != nil {", "	if err := error(nil); err != nil {", "TestSnapshotStartsOver"},
		{"the locks are lost unnoticed", "if _, err := s.keeper.Query(ctx, \"COMMIT\"); err != nil {", "if _, err := s.keeper.Query(ctx, \"COMMIT\"); err == context.Canceled {", "TestSnapshotLosesItsLocks"},
		{"the slot is kept without the last row", "	o.snapshots.Kept, o.known, o.told = p.From, p.From, p.From // should the answer be lost\n", "	o.snapshots.Kept, o.known, o.told = 0, 0, 0\n", "TestSnapshotIsKeptByAStop"},
		{"a stop does not keep the slot", "			err = o.keepSlot(c)\n", "			err = o.ctx.Err()\n", "TestSnapshotIsKeptByAStop"},
		{"the time-outs hold", "SET idle_in_transaction_session_timeout = 0; ", "", "TestSnapshotOutlivesTimeouts"},
		{"an existing slot gets a snapshot", "		case slot != nil:\n			return false, slots.ExistsBeforeSnapshot", "		case false:\n			return false, slots.ExistsBeforeSnapshot", "TestSnapshotRefuses"},
		{"a worker begins its part anew", "	skip, hash := p.rows, uint64(0)\n", "	skip, hash := int64(0), uint64(0)\n", "TestSnapshotWorkersGoOn"},
		{"row-level security hides rows", "SET row_security = off; SET synchronize_seqscans", "SET synchronize_seqscans", "TestSnapshotRefuses"},
		{"a table that was rewritten is read", "	return s.checkRewritten(ctx, leaves)\n", "	return nil\n", "TestSnapshotOfATableThatIsRewritten"},
		{"a partition comes twice", "		FROM v WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(v.oid) a JOIN v w ON w.oid = a.relid WHERE a.relid <> v.oid)\n", "		FROM v\n", "TestSnapshotOfSeveralPublications"},
		{"the publication's row filter is ignored", "Partitioned: r[3] == \"p\", visible: r[5] == \"t\", Where: r[7]}", "Partitioned: r[3] == \"p\", visible: r[5] == \"t\", Where: r[7][:0]}", "TestSnapshotRowsAreThoseOfTheStream"},
		{"NULL is text", "		case len(value) == 2 && value[1] == 'N':\n", "		case false:\n", "TestSnapshotRowsAreThoseOfTheStream"},

		{"a piece replaces what the stream has newer", "			p.rows[i] = \"\"\n", "			_ = i\n", "TestReadRowsAmongChanges"},
		{"rows without their large values are not read again", "had && n.unchanged {", "false && had {", "TestReadRowsAmongChanges"},
		{"moved rows are not read again", "		case seen && n.movedWithout():\n", "		case false:\n", "TestReadRowsAmongChanges"},
		{"changes that a piece has not seen are forgotten", "		return seen\n	})\n	for key", "		return true\n	})\n	for key", "TestReadRowsAmongChanges"},
		{"a transaction is taken for seen by its number alone", "	_, running := slices.BinarySearch(v.running, full)\n	return !running\n", "	_, _ = slices.BinarySearch(v.running, full)\n	return true\n", "TestVisibility"},
		{"ReadRows does not wait for running transactions", "		if v.min > last {\n", "		if v.min > last || true {\n", "TestReadRowsWaits"},
	}...)
}
