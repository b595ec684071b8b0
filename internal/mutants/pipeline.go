package main

// The mutants of package pipeline and its PostgreSQL sink.
func init() {
	const stages, sink = "pipeline", "pipeline/postgres"
	mutants = append(mutants, []mutant{
		{"pipeline: acknowledged with the first part", "pipeline/item.go", "	if n.left.Add(-1) > 0 {\n		return\n	}\n", "	if n.left.Add(-1) < 0 {\n		return\n	}\n", stages, "TestAcknowledgedWithTheLastPart"},
		{"pipeline: what is dropped is not acknowledged", "pipeline/stage.go", "		it.Skip()\n		return nil\n", "		return nil\n", stages, "TestAcknowledgedWithTheLastPart|TestAcknowledgementsAreThose"},
		{"pipeline: an item without parts is not acknowledged", "pipeline/item.go", "		a.fire(skipped)\n		return ack{}", "		return ack{}", stages, "TestAcknowledgedWithTheLastPart"},
		{"pipeline: acknowledged behind an error", "pipeline/item.go", "	case n == nil || n.group.void.Load():", "	case n == nil:", stages, "TestFirstErrorStopsAll"},
		{"pipeline: an error is the end of the input", "pipeline/batch.go", "			if !ok && b.group.void.Load() {", "			if false {", stages, "TestBatchBehindAnError"},
		{"pipeline: cancelling cancels the stages", "pipeline/pipeline.go", "context.WithCancelCause(context.WithoutCancel(ctx))", "context.WithCancelCause(ctx)", stages, "TestCancelledContext"},
		{"pipeline: the grace has no end", "pipeline/pipeline.go", "			g.expire(ErrGrace)\n", "", stages, "TestGraceEnds"},
		{"pipeline: the stream's error is not the group's", "pipeline/pipeline.go", "		return streamErr\n", "", stages, "TestPermanentErrorOfTheStream"},
		{"pipeline: a stream's error stops the stages", "pipeline/pipeline.go", "			if !ok {\n				return nil\n			}\n			if m.Kind == walchan.Progress", "			if !ok {\n				return g.stream.Err()\n			}\n			if m.Kind == walchan.Progress", stages, "TestPermanentErrorOfTheStream"},
		{"pipeline: a barrier waits for nobody", "pipeline/keyed.go", "		for range lanes {\n			if _, ok, err", "		for range lanes[1:] {\n			if _, ok, err", stages, "TestKeyedKeepsTheOrder"},
		{"pipeline: any lane for any key", "pipeline/keyed.go", "send(g, lanes[k%uint64(len(lanes))]", "send(g, lanes[(k+uint64(len(lanes[0])))%uint64(len(lanes))]", stages, "TestKeyedKeepsTheOrder"},
		{"pipeline: a changed key is no barrier", "pipeline/key.go", "(before != state || was != v)", "false", stages, "TestByKey"},
		{"pipeline: a batch waits for ever", "pipeline/batch.go", "		b.due = true\n", "", stages, "TestBatchLimits"},
		{"pipeline: a batch is one too large", "pipeline/batch.go", "len(b.values) >= b.limit.Items", "len(b.values) > b.limit.Items", stages, "TestBatch"},
		{"pipeline: the last batch is lost", "pipeline/batch.go", "			} else if !ok {\n				return send(b.group, out, b.item())", "			} else if !ok {\n				return nil", stages, "TestBatchLimits"},
		{"pipeline: a part of a transaction", "pipeline/transactions.go", "return whole || m.Kind == walchan.Commit || m.Kind == walchan.Prepare, nil", "return true, nil", stages, "TestTransactionsAreWhole"},
		{"pipeline: acknowledged before it is written", "pipeline/sink.go", "			if err := s.Write(ctx, it.Value); err != nil {", "			it.Ack()\n			if err := s.Write(ctx, it.Value); err != nil {", stages, "TestAcknowledgementsAreThose"},
		{"pipeline: what is refused is tried for ever", "pipeline/retry.go", "errors.As(err, &refused) ||", "errors.As(err, &refused) && false ||", stages, "TestRetryEnds"},
		{"pipeline: a refused item takes the rest with it", "pipeline/refuse.go", "slices.Concat(batch[:i], batch[i+1:])", "slices.Concat(batch[:0], batch[i+1:])", stages, "TestSkipAndDeadLetter"},
		{"pipeline: no sync", "pipeline/writer.go", "		s.sync = f.Sync\n", "		_ = f\n", stages, "TestWriterSyncs"},
		{"pipeline: a torn line stays", "pipeline/files.go", "	f.torn = true\n	return f, nil", "	return f, nil", stages, "TestFilesAfterACrash"},

		{"pipeline: what was applied is applied again", sink + "/place.go", "	return ok && (m.Tx == nil", "	return false && ok && (m.Tx == nil", sink, "TestAppliedOnce"},
		{"pipeline: the checkpoint is not stored", sink + "/sink.go", "	next, err := s.place.next(c)\n", "	next, err := s.place, error(nil)\n", sink, "TestAppliedOnce"},
		{"pipeline: two sinks at once", sink + "/position.go", "SELECT pg_advisory_lock($1::bigint)", "SELECT pg_advisory_lock_shared($1::bigint)", sink, "TestSecondSinkWaits"},
		{"pipeline: unchanged TOAST becomes NULL", sink + "/fold.go", "	c.partial = p.isPartial(&c)\n", "", sink, "TestTargetEqualsTheSource/unchanged"},
		{"pipeline: unchanged TOAST is not taken from the change before", sink + "/fold.go", "			s, v = before.at(p, i)\n", "			_ = before\n", sink, "TestTargetEqualsTheSource/unchanged"},
		{"pipeline: a key that changes leaves the old row", sink + "/fold.go", "			moved = before != key\n", "			_ = before\n", sink, "TestTargetEqualsTheSource/key"},
		{"pipeline: truncate out of place", sink + "/fold.go", "	f.flush()\n	f.script.truncate(plans, restart)", "	f.script.truncate(plans, restart)", sink, "TestTargetEqualsTheSource/truncate"},
		{"pipeline: an altered table's changes out of order", sink + "/fold.go", "		f.flush()\n		ok = false\n", "		ok = false\n", sink, "TestTableAltered"},
		{"pipeline: no second try one by one", sink + "/sink.go", "	if isRefusal(err) {\n", "	if false {\n", sink, "TestTargetEqualsTheSource/unique|TestRefusedChange"},
		{"pipeline: the target's type cuts values off", sink + "/plan.go", "format_type(a.atttypid, -1)", "format_type(a.atttypid, NULL)", sink, "TestTargetEqualsTheSource/types"},
	}...)
}
