package snapshot

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// A table is cut into ranges of pages, of about as many bytes as minPart, and so many that all workers have several.
const (
	minPart     = 16 << 20
	partsPerJob = 8
)

// cut finds what rows the tables have, themselves or in partitions, makes sure that it can be read, and cuts it into parts.
func (s *Snapshot) cut(ctx context.Context) error {
	if len(s.Tables) == 0 {
		return nil
	}
	var oids []string
	for _, t := range s.Tables {
		oids = append(oids, strconv.FormatUint(uint64(t.OID), 10))
	}
	// A partitioned table has its rows in its leaves. Foreign and unlogged ones are not in the log, and so not here either.
	rows, err := s.keeper.Query(ctx, `SELECT r.nr, l.oid, pg_catalog.format('%I.%I', n.nspname, l.relname), l.relkind, l.relpersistence
		FROM pg_catalog.unnest(ARRAY[`+strings.Join(oids, ", ")+`]::pg_catalog.oid[]) WITH ORDINALITY r(oid, nr)
		JOIN pg_catalog.pg_class c ON c.oid = r.oid
		CROSS JOIN LATERAL (SELECT r.oid WHERE c.relkind <> 'p' UNION ALL SELECT t.relid FROM pg_catalog.pg_partition_tree(r.oid) t WHERE c.relkind = 'p' AND t.isleaf) x(leaf)
		JOIN pg_catalog.pg_class l ON l.oid = x.leaf
		JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
		ORDER BY r.nr, n.nspname COLLATE "C", l.relname COLLATE "C"`)
	if err != nil {
		return pgfail.Failed("look up the partitions", err)
	}
	var leaves []*leaf
	for _, r := range rows {
		nr, err := strconv.Atoi(r[0])
		if err != nil {
			return pgfail.Failed("look up the partitions", err)
		}
		if r[3] != "r" || r[4] != "p" {
			s.request.Log.Warn("a partition is left out of the snapshot, for its changes cannot be streamed: it is a foreign table or unlogged",
				"slot", s.request.Slot, "partition", r[2], "table", s.Tables[nr-1].String())
			continue
		}
		leaves = append(leaves, &leaf{Table: s.Tables[nr-1], oid: r[1], name: r[2]})
	}
	if err := s.lock(ctx, leaves); err != nil {
		return err
	}
	return s.measure(ctx, leaves)
}

// leaf is a table that has rows itself.
type leaf struct {
	*Table
	oid  string
	name string // as in SQL
}

func (l *leaf) query(condition string) string {
	sql := "SELECT " + strings.Join(l.Columns, ", ") + " FROM ONLY " + l.name
	word := " WHERE "
	for _, c := range []string{condition, l.Where} {
		if c != "" {
			sql += word + "(" + c + "\n)"
			word = " AND "
		}
	}
	return sql
}

// lock locks the tables against ALTER TABLE, by reading nothing from them, which fails where the role may not.
func (s *Snapshot) lock(ctx context.Context, leaves []*leaf) error {
	var refused []string
	var first error
	for _, l := range leaves {
		_, err := s.keeper.Query(ctx, "SAVEPOINT s; "+l.query("")+" LIMIT 0; RELEASE s")
		switch {
		case err == nil:
			continue
		case sqlstate.Of(err) != sqlstate.NoPrivilege:
			return ReadError(l.String(), err)
		}
		if _, err := s.keeper.Query(ctx, "ROLLBACK TO s"); err != nil {
			return ReadError(l.String(), err)
		}
		refused = append(refused, l.name)
		if first == nil {
			first = err
		}
	}
	if refused != nil {
		return &walerr.Error{Kind: walerr.Permission, What: "tables that the role may not read: " + strings.Join(refused, ", "), Err: first,
			Advice: "GRANT SELECT on them; where row-level security hides rows, BYPASSRLS; or leave them out"}
	}
	return s.checkRewritten(ctx, leaves)
}

// checkRewritten fails if a table was rewritten, truncated or renamed between the snapshot and the lock. After TRUNCATE, and after an ALTER
// TABLE that rewrites, the table looks empty to the snapshot ("Caveats" of "Concurrency Control"), and the stream does not have the rows
// either. The catalogue as the snapshot sees it differs then from the catalogue as it is.
func (s *Snapshot) checkRewritten(ctx context.Context, leaves []*leaf) error {
	var oids []string
	for _, l := range leaves {
		oids = append(oids, l.oid)
	}
	if oids == nil {
		return nil
	}
	rows, err := s.keeper.Query(ctx, `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN (`+strings.Join(oids, ", ")+`)
		AND (c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)
			OR pg_catalog.to_regclass(pg_catalog.format('%I.%I', n.nspname, c.relname)) IS DISTINCT FROM c.oid)`)
	switch {
	case err != nil:
		return pgfail.Failed("look whether tables were altered", err)
	case len(rows) > 0:
		return &walerr.Error{Kind: walerr.Server, What: fmt.Sprintf("table %s was altered, renamed or truncated while the snapshot was taken", rows[0][0]), Advice: "try again"}
	}
	return nil
}

// measure makes the parts.
func (s *Snapshot) measure(ctx context.Context, leaves []*leaf) error {
	for _, l := range leaves {
		rows, err := s.keeper.Query(ctx, `SELECT pg_catalog.pg_relation_size(c.oid), pg_catalog.pg_table_size(c.oid), c.relam = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'heap'),
			CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN (c.reltuples / c.relpages * pg_catalog.pg_relation_size(c.oid) / s.block)::int8 ELSE 0 END, s.block
			FROM pg_catalog.pg_class c, (SELECT pg_catalog.current_setting('block_size')::int8) s(block) WHERE c.oid = `+l.oid)
		if err != nil || len(rows) != 1 {
			return pgfail.Failed("measure the tables", err)
		}
		var n [5]int64
		for i := range n {
			n[i], _ = strconv.ParseInt(rows[0][i], 10, 64)
		}
		size, block := n[0], n[4]
		l.EstimatedBytes += n[1]
		l.EstimatedRows += n[3]
		pages := (max(minPart, size/int64(partsPerJob*s.request.Jobs)) + block - 1) / block
		if s.request.Jobs == 1 || rows[0][2] != "t" {
			pages = size/block + 1
		}
		s.addParts(l, pages, size/block)
	}
	return nil
}

// addParts cuts a table into ranges of pages. The last one is open, because the table may have grown since.
func (s *Snapshot) addParts(l *leaf, step, pages int64) {
	format := ""
	if s.request.Binary {
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
		what := l.name + " (" + strings.Join(l.Columns, ", ") + ")"
		if limits != nil || l.Where != "" || l.Text != nil || l.generated || len(l.Columns) == 0 {
			what = "(" + l.query(strings.Join(limits, " AND ")) + ")"
		}
		s.parts = append(s.parts, &part{table: l.Table, sql: "COPY " + what + " TO STDOUT" + format})
		l.Left.Add(1)
		if isLast {
			return
		}
	}
}
