package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan/pipeline/encode"
)

// table is a table to export.
type table struct {
	encode.Table
	quoted string
	keyed  bool
	casts  []string // columns of types that have a cast to json by a function, which row_to_json would call
}

// tablesQuery lists the tables: those of the publication $1; or if that is ” those named by $2; or if that is empty all that a
// publication of all tables has (is_publishable_class in src/backend/catalog/pg_publication.c).
const tablesQuery = `
SELECT n.nspname, c.relname, pg_catalog.format('%I.%I', n.nspname, c.relname),
	CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE i.indexrelid IS NOT NULL END,
	ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		AND (c.relreplident = 'f' OR c.relreplident <> 'n' AND a.attnum = ANY (i.indkey)) ORDER BY a.attnum),
	ARRAY(SELECT pg_catalog.format('%I (%s)', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
		FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_cast t ON t.castsource = a.atttypid
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		AND t.castsource >= 16384 AND t.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND t.castmethod = 'f' ORDER BY a.attnum),
	c.oid
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisvalid
	AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
WHERE CASE
	WHEN $1 <> '' THEN EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
		WHERE p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname)
	WHEN pg_catalog.cardinality($2::text[]) > 0 THEN c.oid IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest($2::text[]) name)
	ELSE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384 AND n.nspname <> 'information_schema'
	END
ORDER BY n.nspname, c.relname`

// attributesQuery lists the columns of a table.
const attributesQuery = `
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
	coalesce(CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END, '')
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// look returns the tables that are there, and the database's name.
func look(ctx context.Context, f flags) (tables []table, database string, err error) {
	cfg, err := pgx.ParseConfig(f.dsn)
	if err != nil {
		return nil, "", err
	}
	delete(cfg.RuntimeParams, "replication") // in a connection string that serves both
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&database); err != nil {
		return nil, "", err
	}
	rows, err := conn.Query(ctx, tablesQuery, f.publication, []string(f.tables))
	if err != nil {
		return nil, "", err
	}
	var oids []uint32
	tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		var oid uint32
		err = row.Scan(&t.Schema, &t.Name, &t.quoted, &t.keyed, &t.Key, &t.casts, &oid)
		oids = append(oids, oid)
		return t, err
	})
	for i := 0; i < len(tables) && err == nil; i++ {
		rows, _ := conn.Query(ctx, attributesQuery, oids[i]) // its error comes with the rows
		tables[i].Attributes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[encode.Attribute])
	}
	return tables, database, err
}
