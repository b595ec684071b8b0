package walchan

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/session"
)

// What a snapshot reads. All questions are asked within the snapshot, so that the answers are those of the moment at which the
// stream begins.

// plan finds the tables and cuts them into parts, locks them, and makes sure that they can be read.
func (p *snapshot) plan(ctx context.Context, c *connection, s *Stream) (err error) {
	if p.keeper, err = c.share(ctx, p.name); err != nil {
		return err
	}
	version, _ := c.Version()
	published, err := publishedTables(ctx, p.keeper, version, s.cfg.publications)
	if err != nil {
		return err
	}
	chosen, err := choose(ctx, p.keeper, published, s.cfg.snapshot.choices)
	if err != nil {
		return err
	}
	if err := describe(ctx, p.keeper, version, chosen); err != nil {
		return err
	}
	if err := checkColumns(chosen, s.cfg.snapshot.keys); err != nil {
		return err
	}
	if oids := s.types.unknown(allColumns(chosen)); len(oids) > 0 {
		if err := s.types.lookup(ctx, p.keeper.PG(), oids); err != nil {
			return failed("look up types", err)
		}
	}
	p.info = &Snapshot{}
	for _, t := range chosen {
		s.types.bind(t.rel)
		p.info.Tables = append(p.info.Tables, t.rel)
		p.tables = append(p.tables, t.source(s.cfg.binary))
	}
	return p.cut(ctx, s, chosen)
}

// published is a table that the publications have.
type published struct {
	rel         *Relation
	partitioned bool
	visible     bool     // its name needs no schema
	columns     []string // of the publication
	where       string   // row filter of the publications, and the condition of the choice; "": none
	binary      []bool   // of rel.Columns: it has a binary format
	generated   bool     // a column is, which COPY refuses unless it is a query's
	hasIdentity bool
}

// publishedTables returns what the publications have. Of a table and a partitioned table above it only the latter: its
// publication has publish_via_partition_root, so that the changes come as its.
func publishedTables(ctx context.Context, c *session.Conn, version int, names []string) ([]*published, error) {
	lists := "v.attnames, coalesce(v.rowfilter, '')" // per publication, from version 15 on
	if version < 150000 {
		lists = `(SELECT pg_catalog.array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), ''`
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quoteLiteral(n)
	}
	rows, err := c.Query(ctx, `WITH v AS (
			SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, pg_catalog.pg_table_is_visible(c.oid) AS visible, v.pubname, x.attnames, x.rowfilter
			FROM pg_catalog.pg_publication_tables v
			JOIN pg_catalog.pg_namespace n ON n.nspname = v.schemaname
			JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.tablename
			CROSS JOIN LATERAL (SELECT `+lists+`) x(attnames, rowfilter)
			WHERE v.pubname IN (`+strings.Join(quoted, ", ")+`))
		SELECT oid, nspname, relname, relkind, relreplident, visible, coalesce(pg_catalog.to_json(attnames)::text, '[]'), rowfilter
		FROM v WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(v.oid) a JOIN v w ON w.oid = a.relid WHERE a.relid <> v.oid)
		ORDER BY nspname COLLATE "C", relname COLLATE "C", pubname COLLATE "C"`)
	if err != nil {
		return nil, failed("look up the tables of the publications", err)
	}
	var all []*published
	for _, r := range rows {
		oid, err := strconv.ParseUint(r[0], 10, 32)
		if err != nil {
			return nil, failed("look up the tables of the publications", err)
		}
		t := &published{rel: &Relation{OID: uint32(oid), Schema: r[1], Name: r[2], ReplicaIdentity: ReplicaIdentity(r[4][0])},
			partitioned: r[3] == "p", visible: r[5] == "t", where: r[7]}
		if err := json.Unmarshal([]byte(r[6]), &t.columns); err != nil {
			return nil, failed("look up the tables of the publications", err)
		}
		if len(all) == 0 || all[len(all)-1].rel.OID != t.rel.OID {
			all = append(all, t)
			continue
		}
		// In several publications a row filter lets through what one of them does ("Row Filters", Combining Multiple Row Filters).
		first := all[len(all)-1]
		if !slices.Equal(first.columns, t.columns) {
			return nil, &Error{Kind: ErrPublication, What: fmt.Sprintf("the publications have different column lists for %s", t.rel), Advice: "alter one of them: the server cannot stream such a table"}
		}
		if first.where == "" || t.where == "" {
			first.where = ""
		} else if first.where != t.where {
			first.where = "(" + first.where + ") OR (" + t.where + ")"
		}
	}
	return all, nil
}

// choose returns the tables that are named, with the columns and conditions of the first choice that names them.
func choose(ctx context.Context, c *session.Conn, all []*published, choices []SnapshotTable) ([]*published, error) {
	if len(choices) == 0 {
		return all, nil
	}
	used := make([]bool, len(choices))
	var chosen []*published
	for _, t := range all {
		for i, choice := range choices {
			pattern, _ := parsePattern(choice.Name) // validate has seen it
			if !pattern.matches(t) {
				continue
			}
			used[i] = true
			if !slices.Contains(chosen, t) {
				if err := t.narrow(choice); err != nil {
					return nil, err
				}
				chosen = append(chosen, t)
			}
		}
	}
	var missing []string
	for i, choice := range choices {
		if !used[i] {
			missing = append(missing, choice.Name)
		}
	}
	if len(missing) == 0 {
		return chosen, nil
	}
	return nil, unpublished(ctx, c, missing)
}

// narrow applies a choice.
func (t *published) narrow(choice SnapshotTable) error {
	if choice.Columns != nil {
		for _, name := range choice.Columns {
			if !slices.Contains(t.columns, name) {
				return &Error{Kind: ErrPublication, What: fmt.Sprintf("column %s of %s, which is asked for, is not published", quoteIdent(name), t.rel),
					Advice: "correct SnapshotTable.Columns, or alter the publication's column list"}
			}
		}
		t.columns = slices.DeleteFunc(t.columns, func(c string) bool { return !slices.Contains(choice.Columns, c) })
	}
	switch {
	case choice.Where == "":
	case t.where == "":
		t.where = choice.Where
	default:
		t.where = "(" + t.where + ") AND (" + choice.Where + "\n)"
	}
	return nil
}

// unpublished says what the tables are that are asked for and not published.
func unpublished(ctx context.Context, c *session.Conn, names []string) error {
	e := &Error{Kind: ErrTableMissing, Advice: "add them to a publication of the stream, or correct the names"}
	var what []string
	for _, name := range names {
		rows, err := c.Query(ctx, "SAVEPOINT s; SELECT relkind, relpersistence FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass("+quoteLiteral(name)+")")
		if err != nil { // no name, says to_regclass before version 16
			_, err = c.Query(ctx, "ROLLBACK TO s")
		}
		if err != nil {
			return failed("look up the tables", err)
		}
		is := "not published"
		if len(rows) == 1 {
			is = map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}[rows[0][0]]
			switch {
			case is != "":
				is += ", which cannot be published"
			case rows[0][1] == "u":
				is = "an unlogged table, which cannot be published"
			case rows[0][1] == "t":
				is = "a temporary table, which cannot be published"
			default:
				is = "not published by the stream's publications, or comes as another table (publish_via_partition_root)"
			}
		}
		what = append(what, fmt.Sprintf("%s is %s", name, is))
	}
	e.What = "tables of the snapshot: " + strings.Join(what, "; ")
	return e
}

// describe makes the relations as the server will describe them in the stream (logicalrep_write_attrs in
// src/backend/replication/logical/proto.c).
func describe(ctx context.Context, c *session.Conn, version int, tables []*published) error {
	if len(tables) == 0 {
		return nil
	}
	byOID := map[string]*published{}
	var oids []string
	for _, t := range tables {
		oid := strconv.FormatUint(uint64(t.rel.OID), 10)
		byOID[oid] = t
		oids = append(oids, oid)
	}
	rows, err := c.Query(ctx, `SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, t.typsend <> 0, a.attgenerated <> '',
			coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)
		FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indimmediate AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
		WHERE a.attrelid IN (`+strings.Join(oids, ", ")+`) AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY a.attrelid, a.attnum`)
	if err != nil {
		return failed("look up the columns of the tables", err)
	}
	for _, r := range rows {
		t := byOID[r[0]]
		key, generated := r[6] == "t", r[5] == "t"
		t.hasIdentity = t.hasIdentity || key || t.rel.ReplicaIdentity == ReplicaIdentityFull
		// Before version 18 generated columns are not sent, whatever pg_publication_tables says.
		if !slices.Contains(t.columns, r[1]) || generated && version < 180000 {
			continue
		}
		t.generated = t.generated || generated
		typ, err := strconv.ParseUint(r[2], 10, 32)
		if err != nil {
			return failed("look up the columns of the tables", err)
		}
		mod, _ := strconv.ParseInt(r[3], 10, 32)
		t.rel.Columns = append(t.rel.Columns, Column{Name: r[1], Key: key || t.rel.ReplicaIdentity == ReplicaIdentityFull, TypeOID: uint32(typ), TypeMod: int32(mod)})
		t.binary = append(t.binary, r[4] == "t")
	}
	return nil
}

// checkColumns fails for tables without what tells rows apart, if that is asked for.
func checkColumns(tables []*published, keys bool) error {
	var without []string
	for _, t := range tables {
		if keys && !t.hasIdentity {
			without = append(without, t.rel.String())
		}
	}
	if without == nil {
		return nil
	}
	return &Error{Kind: ErrTableKey, What: "tables without a replica identity: " + strings.Join(without, ", "),
		Advice: "give them a primary key or another REPLICA IDENTITY, leave them out of the publications, or do without WithSnapshotKeys"}
}

func allColumns(tables []*published) (all []Column) {
	for _, t := range tables {
		all = append(all, t.rel.Columns...)
	}
	return all
}

// source is what the workers need of it.
func (t *published) source(binary bool) *source {
	src := &source{rel: t.rel, where: t.where, generated: t.generated}
	for i, col := range t.rel.Columns {
		name := quoteName(col.Name)
		if binary && !t.binary[i] {
			name += "::pg_catalog.text" // as pgoutput does with a type that has no binary format
			if src.text == nil {
				src.text = make([]bool, len(t.rel.Columns))
			}
			src.text[i] = true
		}
		src.columns = append(src.columns, name)
	}
	return src
}

// A table is cut into ranges of pages, of about as many bytes as minPart, and so many that all workers have several.
const (
	minPart     = 16 << 20
	partsPerJob = 8
)

// cut finds what rows the tables have, themselves or in partitions, makes sure that it can be read, and cuts it into parts.
func (p *snapshot) cut(ctx context.Context, s *Stream, tables []*published) error {
	if len(tables) == 0 {
		return nil
	}
	var oids []string
	for _, t := range tables {
		oids = append(oids, strconv.FormatUint(uint64(t.rel.OID), 10))
	}
	// A partitioned table has its rows in its leaves. Foreign and unlogged ones are not in the log, and so not here either.
	rows, err := p.keeper.Query(ctx, `SELECT r.nr, l.oid, pg_catalog.format('%I.%I', n.nspname, l.relname), l.relkind, l.relpersistence
		FROM pg_catalog.unnest(ARRAY[`+strings.Join(oids, ", ")+`]::pg_catalog.oid[]) WITH ORDINALITY r(oid, nr)
		JOIN pg_catalog.pg_class c ON c.oid = r.oid
		CROSS JOIN LATERAL (SELECT r.oid WHERE c.relkind <> 'p' UNION ALL SELECT t.relid FROM pg_catalog.pg_partition_tree(r.oid) t WHERE c.relkind = 'p' AND t.isleaf) x(leaf)
		JOIN pg_catalog.pg_class l ON l.oid = x.leaf
		JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
		ORDER BY r.nr, n.nspname COLLATE "C", l.relname COLLATE "C"`)
	if err != nil {
		return failed("look up the partitions", err)
	}
	var leaves []*leaf
	for _, r := range rows {
		nr, err := strconv.Atoi(r[0])
		if err != nil {
			return failed("look up the partitions", err)
		}
		if r[3] != "r" || r[4] != "p" {
			s.cfg.log.Warn("a partition is left out of the snapshot, for its changes cannot be streamed: it is a foreign table or unlogged",
				"slot", s.source.Slot, "partition", r[2], "table", tables[nr-1].rel.String())
			continue
		}
		leaves = append(leaves, &leaf{source: p.tables[nr-1], oid: r[1], name: r[2]})
	}
	if err := p.lock(ctx, leaves); err != nil {
		return err
	}
	return p.measure(ctx, leaves, s.cfg)
}

// leaf is a table that has rows itself.
type leaf struct {
	*source
	oid  string
	name string // as in SQL
}

func (l *leaf) query(condition string) string {
	sql := "SELECT " + strings.Join(l.columns, ", ") + " FROM ONLY " + l.name
	for _, c := range []string{condition, l.where} {
		if c == "" {
			continue
		}
		sql += []string{" WHERE ", " AND "}[btoi(strings.Contains(sql, " WHERE "))] + "(" + c + "\n)"
	}
	return sql
}

// lock locks the tables against ALTER TABLE, by reading nothing from them, which fails where the role may not.
func (p *snapshot) lock(ctx context.Context, leaves []*leaf) error {
	var refused []string
	var first error
	for _, l := range leaves {
		_, err := p.keeper.Query(ctx, "SAVEPOINT s; "+l.query("")+" LIMIT 0; RELEASE s")
		switch {
		case err == nil:
			continue
		case sqlState(err) != stateNoPrivilege:
			return readError(l.rel, err)
		}
		if _, err := p.keeper.Query(ctx, "ROLLBACK TO s"); err != nil {
			return readError(l.rel, err)
		}
		refused = append(refused, l.name)
		if first == nil {
			first = err
		}
	}
	if refused != nil {
		return &Error{Kind: ErrPermission, What: "tables that the role may not read: " + strings.Join(refused, ", "), Err: first,
			Advice: "GRANT SELECT on them; where row-level security hides rows, BYPASSRLS; or leave them out"}
	}
	return p.checkRewritten(ctx, leaves)
}

// checkRewritten: an ALTER TABLE that rewrites a table, and TRUNCATE, between the snapshot and the lock leave a table that looks
// empty to the snapshot ("Caveats" of "Concurrency Control"), and whose rows the stream does not have. The catalogue as the
// snapshot sees it and as it is tell.
func (p *snapshot) checkRewritten(ctx context.Context, leaves []*leaf) error {
	var oids []string
	for _, l := range leaves {
		oids = append(oids, l.oid)
	}
	if oids == nil {
		return nil
	}
	rows, err := p.keeper.Query(ctx, "SELECT oid::pg_catalog.regclass FROM pg_catalog.pg_class WHERE oid IN ("+strings.Join(oids, ", ")+
		") AND relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(oid)")
	switch {
	case err != nil:
		return failed("look whether tables were altered", err)
	case len(rows) > 0:
		return &Error{Kind: ErrServer, What: fmt.Sprintf("table %s was altered or truncated while the snapshot was taken", rows[0][0]), Advice: "try again"}
	}
	return nil
}

// measure makes the parts.
func (p *snapshot) measure(ctx context.Context, leaves []*leaf, cfg *config) error {
	for _, l := range leaves {
		rows, err := p.keeper.Query(ctx, `SELECT pg_catalog.pg_relation_size(c.oid), pg_catalog.pg_table_size(c.oid), c.relam = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'heap'),
			CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN (c.reltuples / c.relpages * pg_catalog.pg_relation_size(c.oid) / s.block)::int8 ELSE 0 END, s.block
			FROM pg_catalog.pg_class c, (SELECT pg_catalog.current_setting('block_size')::int8) s(block) WHERE c.oid = `+l.oid)
		if err != nil || len(rows) != 1 {
			return failed("measure the tables", err)
		}
		var n [5]int64
		for i := range n {
			n[i], _ = strconv.ParseInt(rows[0][i], 10, 64)
		}
		size, block := n[0], n[4]
		l.estimatedBytes += n[1]
		l.estimatedRows += n[3]
		pages := (max(minPart, size/int64(partsPerJob*cfg.snapshot.jobs)) + block - 1) / block
		if cfg.snapshot.jobs == 1 || rows[0][2] != "t" {
			pages = size/block + 1
		}
		p.addParts(l, pages, size/block, cfg.binary)
	}
	return nil
}

// addParts cuts a table into ranges of pages. The last one is open, for the table may have grown since it was measured.
func (p *snapshot) addParts(l *leaf, step, pages int64, binary bool) {
	format := ""
	if binary {
		format = " WITH (FORMAT binary)"
	}
	for from := int64(0); ; from += step {
		var limits []string
		if from > 0 {
			limits = append(limits, fmt.Sprintf("ctid >= '(%d,0)'::pg_catalog.tid", from))
		}
		isLast := from+step >= pages
		if !isLast {
			limits = append(limits, fmt.Sprintf("ctid < '(%d,0)'::pg_catalog.tid", from+step))
		}
		// A whole table goes faster without a query.
		what := l.name + " (" + strings.Join(l.columns, ", ") + ")"
		if limits != nil || l.where != "" || l.text != nil || l.generated || len(l.columns) == 0 {
			what = "(" + l.query(strings.Join(limits, " AND ")) + ")"
		}
		p.parts = append(p.parts, &part{table: l.source, sql: "COPY " + what + " TO STDOUT" + format})
		l.left.Add(1)
		if isLast {
			return
		}
	}
}

// pattern is the name of a table in which * stands for any characters.
type pattern struct{ schema, name string } // schema "": what the search_path finds

// parsePattern reads a name as in SQL, with *: outside of quotes capital letters are small ones.
func parsePattern(s string) (pattern, error) {
	var parts []string
	var part strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case b == '"' && quoted && i+1 < len(s) && s[i+1] == '"':
			part.WriteByte('"')
			i++
		case b == '"':
			quoted = !quoted
		case b == '*' && !quoted:
			part.WriteByte(wildcard)
		case b == '.' && !quoted:
			parts = append(parts, part.String())
			part.Reset()
		case b >= 'A' && b <= 'Z' && !quoted:
			part.WriteByte(b + 'a' - 'A')
		default:
			part.WriteByte(b)
		}
	}
	parts = append(parts, part.String())
	if quoted || len(parts) > 2 || slices.Contains(parts, "") || strings.ContainsRune(s, 0) {
		return pattern{}, fmt.Errorf("%q is not the name of a table: write it as in SQL (shop.orders, shop.\"Order\"), with * for any characters", s)
	}
	if len(parts) == 1 {
		return pattern{"", parts[0]}, nil
	}
	return pattern{parts[0], parts[1]}, nil
}

// wildcard is * in a pattern. No name has it.
const wildcard = 0

func (p pattern) matches(t *published) bool {
	if p.schema == "" {
		// * alone means all that there are.
		return (t.visible || p.name == string(rune(wildcard))) && like(p.name, t.rel.Name)
	}
	return like(p.schema, t.rel.Schema) && like(p.name, t.rel.Name)
}

// like says whether a name is as the pattern says.
func like(pattern, name string) bool {
	pieces := strings.Split(pattern, string(rune(wildcard)))
	if len(pieces) == 1 {
		return pattern == name
	}
	first, last := pieces[0], pieces[len(pieces)-1]
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for _, piece := range pieces[1 : len(pieces)-1] {
		_, after, found := strings.Cut(name, piece)
		if !found {
			return false
		}
		name = after
	}
	return strings.HasSuffix(name, last)
}
