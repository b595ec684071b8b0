package main

// The mistakes of sinks that only show when processes and servers are killed.
func init() {
	mutants = append(mutants, []mutant{
		{"chaos: acknowledged before it is written", "			if err := s.Write(ctx, it.Value); err != nil {", "			it.Ack()\n			if err := s.Write(ctx, it.Value); err != nil {", "TestChaos"},
		{"chaos: PostgreSQL: what was applied is applied again", "	return ok && (m.Tx == nil", "	return false && ok && (m.Tx == nil", "TestChaos"},
		{"chaos: JetStream: what was stored is not looked for", "	return p == last.of && part < last.parts || point.Contains(p.Commit, p.Ordinal, m.Tx == nil)", "	return false", "TestChaos"},
		{"kafka: the rest of a batch overtakes what has failed", "		a.cancel()\n	}\n	a.leave()", "	}\n	a.leave()", "TestNothingOvertakes"},
		{"kafka: a changed key is one record", "of := identify(m, n)", "of := identify(m, n*0)", "TestHalfOfAChangedKey"},
		{"chaos: files: a line is cut off with what was torn", "			return start + int64(i) + 1, nil", "			return start + int64(bytes.LastIndexByte(b[:i], '\\n')) + 1, nil", "TestChaos"},
	}...)
}
