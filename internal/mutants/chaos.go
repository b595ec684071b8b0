package main

// The mistakes of sinks that only show when processes and servers are killed.
func init() {
	const chaos = "internal/chaos"
	mutants = append(mutants, []mutant{
		{"chaos: acknowledged before it is written", "pipeline/sink.go", "			if err := s.Write(ctx, it.Value); err != nil {", "			it.Ack()\n			if err := s.Write(ctx, it.Value); err != nil {", chaos, "TestChaos"},
		{"chaos: PostgreSQL: what was applied is applied again", "pipeline/postgres/place.go", "	return ok && (m.Tx == nil", "	return false && ok && (m.Tx == nil", chaos, "TestChaos"},
		{"chaos: JetStream: what was stored is not looked for", "pipeline/jetstream/position.go", "	return p == last.of && part < last.parts || point.Contains(p.Commit, p.Ordinal, m.Tx == nil)", "	return false", chaos, "TestChaos"},
		{"kafka: the rest of a batch overtakes what has failed", "pipeline/kafka/produce.go", "		a.cancel()\n	}\n	a.leave()", "	}\n	a.leave()", "pipeline/kafka", "TestNothingOvertakes"},
		{"kafka: a changed key is one record", "pipeline/kafka/encode.go", "of := identify(m, n)", "of := identify(m, n*0)", "pipeline/kafka", "TestHalfOfAChangedKey"},
		{"chaos: files: a line is cut off with what was torn", "pipeline/files.go", "			return start + int64(i) + 1, nil", "			return start + int64(bytes.LastIndexByte(b[:i], '\\n')) + 1, nil", chaos, "TestChaos"},
	}...)
}
