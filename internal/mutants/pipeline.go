package main

// The mutants of package pipeline and its PostgreSQL sink.
func init() {
	mutants = append(mutants, []mutant{
		{"pipeline: acknowledged with the first part", "	if n.left.Add(-1) > 0 {\n		return\n	}\n", "	if n.left.Add(-1) < 0 {\n		return\n	}\n", "TestAcknowledgedWithTheLastPart"},
		{"pipeline: what is dropped is not acknowledged", "		it.Skip()\n		return nil\n", "		return nil\n", "TestAcknowledgedWithTheLastPart|TestAcknowledgementsAreThose"},
		{"pipeline: an item without parts is not acknowledged", "		a.fire(skipped)\n		return ack{}", "		return ack{}", "TestAcknowledgedWithTheLastPart"},
		{"pipeline: acknowledged behind an error", "	case n == nil || n.group.void.Load():", "	case n == nil:", "TestFirstErrorStopsAll"},
		{"pipeline: an error is the end of the input", "			if !ok && b.group.void.Load() {", "			if false {", "TestBatchBehindAnError"},
		{"pipeline: cancelling cancels the stages", "context.WithCancelCause(context.WithoutCancel(ctx))", "context.WithCancelCause(ctx)", "TestCancelledContext"},
		{"pipeline: the grace has no end", "			g.expire(ErrGrace)\n", "", "TestGraceEnds"},
		{"pipeline: the stream's error is not the group's", "		return streamErr\n", "", "TestPermanentErrorOfTheStream"},
		{"pipeline: a stream's error stops the stages", "			if !ok {\n				return nil\n			}\n			if m.Kind == walchan.Progress", "			if !ok {\n				return g.stream.Err()\n			}\n			if m.Kind == walchan.Progress", "TestPermanentErrorOfTheStream"},
		{"pipeline: a barrier waits for nobody", "		for range lanes {\n			if _, ok, err", "		for range lanes[1:] {\n			if _, ok, err", "TestKeyedKeepsTheOrder"},
		{"pipeline: any lane for any key", "send(g, lanes[k%uint64(len(lanes))]", "send(g, lanes[(k+uint64(len(lanes[0])))%uint64(len(lanes))]", "TestKeyedKeepsTheOrder"},
		{"pipeline: a changed key is no barrier", "(before != state || was != v)", "false", "TestByKey"},
		{"pipeline: a batch waits for ever", "		b.due = true\n", "", "TestBatchLimits"},
		{"pipeline: a batch is one too large", "len(b.values) >= b.limit.Items", "len(b.values) > b.limit.Items", "TestBatch"},
		{"pipeline: the last batch is lost", "			} else if !ok {\n				return send(b.group, out, b.item())", "			} else if !ok {\n				return nil", "TestBatchLimits"},
		{"pipeline: a part of a transaction", "return whole || m.Kind == walchan.Commit || m.Kind == walchan.Prepare, nil", "return true, nil", "TestTransactionsAreWhole"},
		{"pipeline: acknowledged before it is written", "			if err := s.Write(ctx, it.Value); err != nil {", "			it.Ack()\n			if err := s.Write(ctx, it.Value); err != nil {", "TestAcknowledgementsAreThose"},
		{"pipeline: what is refused is tried for ever", "errors.As(err, &refused) ||", "errors.As(err, &refused) && false ||", "TestRetryEnds"},
		{"pipeline: a refused item takes the rest with it", "slices.Concat(batch[:i], batch[i+1:])", "slices.Concat(batch[:0], batch[i+1:])", "TestSkipAndDeadLetter"},
		{"pipeline: no sync", "		s.sync = f.Sync\n", "		_ = f\n", "TestWriterSyncs"},
		{"pipeline: a torn line stays", "	f.torn = true\n	return f, nil", "	return f, nil", "TestFilesAfterACrash"},

		{"pipeline: what was applied is applied again", "	return ok && (m.Tx == nil", "	return false && ok && (m.Tx == nil", "TestAppliedOnce"},
		{"pipeline: the checkpoint is not stored", "	next, err := s.place.next(c)\n", "	next, err := s.place, error(nil)\n", "TestAppliedOnce"},
		{"pipeline: two sinks at once", "SELECT pg_advisory_lock($1::bigint)", "SELECT pg_advisory_lock_shared($1::bigint)", "TestSecondSinkWaits"},
		{"pipeline: unchanged TOAST becomes NULL", "	c.partial = p.isPartial(&c)\n", "", "TestTargetEqualsTheSource/unchanged"},
		{"pipeline: unchanged TOAST is not taken from the change before", "			s, v = before.at(p, i)\n", "			_ = before\n", "TestTargetEqualsTheSource/unchanged"},
		{"pipeline: a key that changes leaves the old row", "			moved = before != key\n", "			_ = before\n", "TestTargetEqualsTheSource/key"},
		{"pipeline: truncate out of place", "	f.flush()\n	f.script.truncate(plans, restart)", "	f.script.truncate(plans, restart)", "TestTargetEqualsTheSource/truncate"},
		{"pipeline: an altered table's changes out of order", "		f.flush()\n		ok = false\n", "		ok = false\n", "TestTableAltered"},
		{"pipeline: no second try one by one", "	if isRefusal(err) {\n", "	if false {\n", "TestTargetEqualsTheSource/unique|TestRefusedChange"},
		{"pipeline: the target's type cuts values off", "format_type(a.atttypid, -1)", "format_type(a.atttypid, NULL)", "TestTargetEqualsTheSource/types"},
	}...)
}
