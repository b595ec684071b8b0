package main

func init() {
	mutants = append(mutants, []mutant{
		// NATS JetStream.
		{"jetstream: messages need not follow each other", "		natsjs.ExpectedLastSeqHeader: {after},\n", "", "TestTwoSinks|TestServerKilled"},
		{"jetstream: no identifier", "			part.id = id(m, n, again)\n", "", "TestChangesOfPostgreSQL"},
		{"jetstream: what was stored is not looked for", "	return p == last.of && part < last.parts || point.Contains(p.Commit, p.Ordinal, m.Tx == nil)", "	return false", "TestPublishedOnce"},
		{"jetstream: the parts of a truncate are one", "p == last.of && part < last.parts ||", "p == last.of ||", "TestTruncateInParts"},
		{"jetstream: a failure changes nothing", "	s.sure = false\n	if err", "	if err", "TestTwoSinks|TestRefused"},
		{"jetstream: a stream that went back goes unnoticed", "	case last < s.sequence:\n", "	case false:\n", "TestLostStream"},
		{"jetstream: what is redelivered counts as published", "		return again < last.again\n", "		return true\n", "TestRedelivered"},
		{"jetstream: what is redelivered comes with each attempt", "	n, ok := s.again[tx]\n", "	n, ok := s.again[nil]\n", "TestRedelivered"},
		{"jetstream: a cancelled write may count as stored", "failure != nil && ctx.Err() != nil", "ctx.Err() != nil", "TestWriteCancelled"},

		// Kafka.
		{"kafka: a key that changes leaves the old row", "	records, err := t.tombstone(old)\n	return append(records, record), err", "	return []*kgo.Record{record}, err", "TestRowsOfPostgreSQL"},
		{"kafka: any update changes the key", "old.State(i) != row.State(i) || old.Text(i) != row.Text(i)", "true", "TestRefused"},
		{"kafka: two tables in one topic", "ok && owner != rel.String()", "false && ok && owner != \"\"", "TestTopics"},
		{"kafka: a failed batch is written as a whole", "			s.stored[o.of] = true\n", "", "TestConnectionsCut|TestRefused"},
		{"kafka: what a write that timed out becomes does not matter", "		s.last = a\n", "", "TestConnectionsCut"},
		{"kafka: records before there is a producer ID", "	if _, _, err := s.client.ProducerID(ctx); err != nil {", "	if err := ctx.Err(); err != nil {", "TestNothingIsWrittenWithoutAProducerID"},
		{"kafka: schemas without their identifiers", "uint32(id))", "0)", "TestAvro"},
	}...)
}
