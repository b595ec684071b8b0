package main

func init() { mutants = append(mutants, admin...) }

// What an operator does.
var admin = []mutant{
	{"admin: a table without a replica identity is published", "			WHEN NOT isfull AND key IS NULL THEN 'identity'\n", "", "BreaksNothing"},
	{"admin: a deferrable key counts", "i.indisunique AND i.indimmediate AND i.indpred", "i.indisunique AND i.indpred", "BreaksNothing"},
	{"admin: any unique index is a replica identity", "				AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END) x\n", ") x\n", "BreaksNothing"},
	{"admin: a row filter may have any column", "WHERE a.attname IS NULL OR a.attname <> ALL", "WHERE false AND a.attname <> ALL", "BreaksNothing"},
	{"admin: the columns of a row filter are others", "':varattno ([0-9]+)'", "':varno ([0-9]+)'", "BreaksNothing"},
	{"admin: a column list may go with REPLICA IDENTITY FULL", "			WHEN isfull AND list IS NOT NULL THEN 'full'\n", "", "BreaksNothing"},
	{"admin: a column list may leave out the key", "a.attname = k AND a.attnum = ANY (list)", "a.attname = k", "BreaksNothing"},
	{"admin: partitions do not count", " UNION SELECT t.relid FROM named n, pg_catalog.pg_partition_tree(n.oid) t", "", "BreaksNothing"},
	{"admin: what is not published counts", " AND pg_catalog.pg_relation_is_publishable(c.oid)", "", "BreaksNothing"},
	{"admin: a partition has the row filter of the lowest table", "ORDER BY a.nr DESC LIMIT 1", "ORDER BY a.nr LIMIT 1", "BreaksNothing"},
	{"admin: a partition never has the root's row filter", "WHERE p.pubviaroot AND (EXISTS", "WHERE false AND (EXISTS", "BreaksNothing"},
	{"admin: keys are asked for whatever is published", "	if !p.needsKeys() {\n", "	if false {\n", "BreaksNothing"},
	{"admin: what is refused is made", `p.conn, "ROLLBACK")`, `p.conn, "COMMIT")`, "BreaksNothing"},
	{"admin: a key that is gone goes unnoticed", "		return false, p.checkKeys(ctx, all)\n", "		return false, nil\n", "TestEnsurePublicationOfUnkeyed"},
	{"admin: children are not named", "			UNION\n			SELECT f.nr, i.inhrelid FROM family f\n", "			UNION SELECT f.nr, i.inhrelid FROM family f JOIN pg_catalog.pg_class n ON false\n", "TestEnsurePublicationOfFamilies"},
	{"admin: nobody looks again", "	for range 20 {\n		created, err = p.attempt(ctx)\n", "	for range 1 {\n		created, err = p.attempt(ctx)\n", "TestEnsurePublicationAtOnceBreaksNothing"},
	{"admin: another kind of publication will do", "	if differs != nil {\n		return true,", "	if false {\n		return true,", "TestEnsurePublicationOfAnotherKind"},
	{"admin: another column list will do", "m.asked.Columns != nil && !slices.Equal(have, want)", "false", "TestEnsurePublicationOfParts"},
	{"admin: two connections, two servers", "		c.server.SameServer(cfg)\n", "", "TestConnectionsGoToOneServer"},
	{"admin: COPY is a query", "			refused = ErrCopy\n			_ = c.Cancel(ctx)", "			_ = c.Cancel(ctx)", "TestExecTakesNoCopies"},
	{"admin: a slot says nothing while it waits", "for pause := firstReport;", "for pause := time.Hour;", "TestCreateSlotSays"},
}
