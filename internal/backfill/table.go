package backfill

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/snapshot"
	"github.com/walchan/walchan/internal/tables"
	"github.com/walchan/walchan/walerr"
)

// describe finds the table and its key, again when it was altered.
func (x *reader) describe(ctx context.Context) error {
	version, _ := x.conn.Version()
	if _, err := x.conn.Query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return pgfail.Failed("look up the table", err)
	}
	all, err := tables.OfPublications(ctx, x.conn, version, x.request.Publications)
	if err != nil {
		return err
	}
	chosen, err := tables.Choose(ctx, x.conn, all, []tables.Choice{x.request.Table})
	if err != nil {
		return err
	}
	if len(chosen) != 1 {
		return pgfail.Invalid(fmt.Sprintf("ReadRows reads one table, and %s are %d", x.request.Table.Name, len(chosen)))
	}
	if err := tables.Describe(ctx, x.conn, version, chosen); err != nil {
		return err
	}
	t := chosen[0]
	if x.target.Table != nil && x.target.OID != t.Table.OID {
		return &walerr.Error{Kind: walerr.TableMissing, What: fmt.Sprintf("table %s is another one than that which was read so far", t.Table), Advice: "call ReadRows for it anew"}
	}
	if oids := x.request.Types.Unknown(t.Table.Types()); len(oids) > 0 {
		if err := x.request.Types.Lookup(ctx, x.conn.PG(), oids); err != nil {
			return pgfail.Failed("look up types", err)
		}
	}
	key, columns, err := x.findKey(ctx, t.Table)
	switch {
	case err != nil:
		return err
	case x.target.Table != nil && !slices.Equal(key, x.notes.key):
		return &walerr.Error{Kind: walerr.TableKey, What: fmt.Sprintf("table %s has another key than that by which it was read so far", t.Table), Advice: "call ReadRows for it anew"}
	case x.target.Table == nil && x.place.after != nil && len(x.place.after) != len(key):
		return pgfail.Invalid(fmt.Sprintf("ReadRows is to begin after %d values, and the key of %s has %d", len(x.place.after), t.Table, len(key)))
	}
	now := target{Table: snapshot.NewTable(t, false), columns: columns, from: t.Table.String()}
	if !t.Partitioned {
		now.from = "ONLY " + now.from
	} else if err := x.leaveOut(ctx, now.Table); err != nil {
		return err
	}
	rows, err := x.conn.Query(ctx, `SELECT coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::int8, coalesce(sum(greatest(c.reltuples, 0)), 0)::int8
		FROM `+leavesOf(t.Table.OID))
	if err != nil || len(rows) != 1 {
		return pgfail.Failed("measure the table", err)
	}
	now.EstimatedBytes, _ = strconv.ParseInt(rows[0][0], 10, 64)
	now.EstimatedRows, _ = strconv.ParseInt(rows[0][1], 10, 64)
	now.Left.Store(1)
	if now.shape, _, err = x.shapeOf(ctx, t.Table); err != nil {
		return err
	}
	if _, err := x.conn.Query(ctx, "COMMIT"); err != nil {
		return pgfail.Failed("look up the table", err)
	}
	if old := x.target.Table; old != nil {
		now.Rows.Store(old.Rows.Load())
		now.Bytes.Store(old.Bytes.Load())
	} else {
		x.notes.oid, x.notes.key = t.Table.OID, key
	}
	if err := x.request.Described(now.Table, x.notes); err != nil {
		return err
	}
	x.target = now
	return nil
}

// target is the table as it was last described.
type target struct {
	*snapshot.Table        // nil: it was not
	from            string // it, as in FROM
	columns         []int  // the key's indexes
	shape           string // see shapeOf
}

// leavesOf is c, the table itself or those of its partitions that have rows.
func leavesOf(oid uint32) string {
	return fmt.Sprintf(`pg_catalog.pg_class c WHERE c.relkind = 'r'
		AND (c.oid = %[1]d OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%[1]d) WHERE isleaf))`, oid)
}

// shapeOf returns what must not change while the table is read: which table the name means, the columns, the keys, the publications.
// rewritten says that the table looks empty to the snapshot of the transaction (see snapshot.checkRewritten).
func (x *reader) shapeOf(ctx context.Context, table *tables.Table) (shape string, rewritten bool, err error) {
	rows, err := x.conn.Query(ctx, fmt.Sprintf(`SELECT pg_catalog.concat_ws(' ', pg_catalog.to_regclass(%[2]s)::pg_catalog.oid, c.relreplident,
			(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attgenerated), ',' ORDER BY a.attnum)
				FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
			(SELECT pg_catalog.string_agg(i::text, ',' ORDER BY i.indexrelid) FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)),
			(SELECT pg_catalog.string_agg(r::text, ',' ORDER BY r.oid) FROM pg_catalog.pg_publication_rel r WHERE r.prrelid = c.oid)),
		EXISTS (SELECT FROM %[3]s AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid))
		FROM pg_catalog.pg_class c WHERE c.oid = %[1]d`, table.OID, pgsql.Literal(table.String()), leavesOf(table.OID)))
	switch {
	case err != nil:
		return "", false, pgfail.Failed("look whether the table was altered", err)
	case len(rows) != 1:
		return "", false, nil // it is gone
	}
	return rows[0][0], rows[0][1] == "t", nil
}

// checkShape fails if the table was altered since it was described, or while a piece was read.
func (x *reader) checkShape(ctx context.Context) error {
	shape, rewritten, err := x.shapeOf(ctx, x.target.Table.Table)
	if err != nil || shape == x.target.shape && !rewritten {
		return err
	}
	return &walerr.Error{Kind: walerr.Server, What: fmt.Sprintf("table %s was altered while it was read", x.target.Table)}
}

// findKey returns the columns of the replica identity, which the stream's old rows have.
func (x *reader) findKey(ctx context.Context, table *tables.Table) (key []string, columns []int, err error) {
	rows, err := x.conn.Query(ctx, fmt.Sprintf(`SELECT a.attname
		FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
		JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
		WHERE i.indrelid = %d AND i.indimmediate AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END
		ORDER BY pg_catalog.array_position(i.indkey::int2[], a.attnum)`, table.OID))
	if err != nil {
		return nil, nil, pgfail.Failed("look up the key", err)
	}
	for _, r := range rows {
		i := table.Index(r[0])
		if i < 0 {
			rows = nil
			break
		}
		key, columns = append(key, r[0]), append(columns, i)
	}
	if len(rows) == 0 {
		return nil, nil, &walerr.Error{Kind: walerr.TableKey, What: fmt.Sprintf("table %s has no key, or not all of it is read", table), Advice: "give it a primary key, or REPLICA IDENTITY USING INDEX, and have it published"}
	}
	return key, columns, nil
}

// leaveOut leaves out the partitions that are not in the log.
func (x *reader) leaveOut(ctx context.Context, table *snapshot.Table) error {
	rows, err := x.conn.Query(ctx, fmt.Sprintf(`SELECT c.oid FROM pg_catalog.pg_partition_tree(%d) t JOIN pg_catalog.pg_class c ON c.oid = t.relid
		WHERE t.isleaf AND (c.relkind <> 'r' OR c.relpersistence <> 'p')`, table.OID))
	if err != nil {
		return pgfail.Failed("look up the partitions", err)
	}
	var conditions []string
	for _, r := range rows {
		conditions = append(conditions, "tableoid <> "+r[0])
	}
	if table.Where != "" {
		conditions = append(conditions, "("+table.Where+"\n)")
	}
	table.Where = strings.Join(conditions, " AND ")
	return nil
}
