package main

func init() {
	mutants = append(mutants, []mutant{
		// NATS JetStream.
		{"jetstream: messages need not follow each other", "pipeline/jetstream/encode.go", "		natsjs.ExpectedLastSeqHeader: {after},\n", "", "pipeline/jetstream", "TestTwoSinks|TestServerKilled"},
		{"jetstream: no identifier", "pipeline/jetstream/encode.go", "			part.id = id(m, n, again)\n", "", "pipeline/jetstream", "TestChangesOfPostgreSQL"},
		{"jetstream: what was stored is not looked for", "pipeline/jetstream/position.go", "	return p == last.of && part < last.parts || point.Contains(p.Commit, p.Ordinal, m.Tx == nil)", "	return false", "pipeline/jetstream", "TestPublishedOnce"},
		{"jetstream: the parts of a truncate are one", "pipeline/jetstream/position.go", "p == last.of && part < last.parts ||", "p == last.of ||", "pipeline/jetstream", "TestTruncateInParts"},
		{"jetstream: a failure changes nothing", "pipeline/jetstream/sink.go", "	s.sure = false\n	if err", "	if err", "pipeline/jetstream", "TestTwoSinks|TestRefused"},
		{"jetstream: a stream that went back goes unnoticed", "pipeline/jetstream/position.go", "	case last < s.sequence:\n", "	case false:\n", "pipeline/jetstream", "TestLostStream"},
		{"jetstream: what is redelivered counts as published", "pipeline/jetstream/position.go", "		return again < last.again\n", "		return true\n", "pipeline/jetstream", "TestRedelivered"},
		{"jetstream: what is redelivered comes with each attempt", "pipeline/jetstream/encode.go", "	n, ok := s.again[tx]\n", "	n, ok := s.again[nil]\n", "pipeline/jetstream", "TestRedelivered"},
		{"jetstream: a cancelled write may count as stored", "pipeline/jetstream/publish.go", "failure != nil && ctx.Err() != nil", "ctx.Err() != nil", "pipeline/jetstream", "TestWriteCancelled"},

		// Kafka.
		{"kafka: a key that changes leaves the old row", "pipeline/kafka/encode.go", "	records, err := t.tombstone(old)\n	return append(records, record), err", "	return []*kgo.Record{record}, err", "pipeline/kafka", "TestRowsOfPostgreSQL"},
		{"kafka: any update changes the key", "pipeline/kafka/encode.go", "old.State(i) != row.State(i) || old.Text(i) != row.Text(i)", "true", "pipeline/kafka", "TestRefused"},
		{"kafka: two tables in one topic", "pipeline/kafka/table.go", "ok && owner != rel.String()", "false && ok && owner != \"\"", "pipeline/kafka", "TestTopics"},
		{"kafka: a failed batch is written as a whole", "pipeline/kafka/produce.go", "			s.stored[o.of] = true\n", "", "pipeline/kafka", "TestConnectionsCut|TestRefused"},
		{"kafka: what a write that timed out becomes does not matter", "pipeline/kafka/sink.go", "		s.last = a\n", "", "pipeline/kafka", "TestConnectionsCut"},
		{"kafka: schemas without their identifiers", "pipeline/kafka/encode.go", "uint32(id))", "0)", "pipeline/kafka", "TestAvro"},
	}...)
}
