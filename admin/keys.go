package admin

import (
	"context"
	"fmt"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/walerr"
)

// PostgreSQL refuses an UPDATE or DELETE of a table that is published without a usable replica identity (CheckCmdReplicaIdentity in
// src/backend/executor/execReplication.c). The query here asks the catalogue what that function asks the relation cache.

// needsKeys reports whether anything is published for which a table needs a replica identity.
func (p *publication) needsKeys() bool { return p.publishes("update") || p.publishes("delete") }

// unkeyed is a table of which UPDATE and DELETE fail while the publication has it.
type unkeyed struct{ table, why string }

// reasons say what is wrong with a table, and what mends it.
var reasons = map[string]struct{ is, mend string }{
	"identity":  {"no replica identity", "ALTER TABLE %[1]s ADD PRIMARY KEY (…), or ALTER TABLE %[1]s REPLICA IDENTITY FULL"},
	"filter":    {"a row filter on columns outside of the replica identity", "filter by columns of the key, or ALTER TABLE %s REPLICA IDENTITY FULL"},
	"columns":   {"a column list without the whole replica identity", "name the columns of the key, too, or ALTER TABLE %s REPLICA IDENTITY USING INDEX …"},
	"full":      {"a column list, which REPLICA IDENTITY FULL excludes", "name no columns, or ALTER TABLE %s REPLICA IDENTITY DEFAULT (its primary key)"},
	"generated": {"generated columns in the replica identity, which are not published", "ALTER TABLE %s REPLICA IDENTITY USING INDEX …, without them"},
}

// mostNamed bounds how many tables an error or a line of the log names.
const mostNamed = 20

// checkKeys fails if there are tables of which UPDATE and DELETE fail, or logs them if that is accepted.
func (p *publication) checkKeys(ctx context.Context, all members) error {
	if !p.needsKeys() {
		return nil
	}
	tables, err := p.unkeyed(ctx, all)
	if err != nil || len(tables) == 0 {
		return err
	}
	if p.AllowUnkeyed {
		p.log.Warn("a publication breaks UPDATE and DELETE of its tables", "publication", p.Name, "tables", list(tables))
		return nil
	}
	return &walerr.Error{Kind: walerr.TableKey, What: fmt.Sprintf("publication %q breaks UPDATE and DELETE of %s", p.Name, list(tables)),
		Advice: fmt.Sprintf(reasons[tables[0].why].mend, tables[0].table) + ", or publish neither (publish = 'insert, truncate'), or accept it (AllowUnkeyed)"}
}

// list names the tables. A reason stands after the tables that have it.
func list(tables []unkeyed) string {
	var b strings.Builder
	for i, t := range tables {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == mostNamed {
			fmt.Fprintf(&b, "and %d more", len(tables)-i)
			break
		}
		b.WriteString(t.table)
		if i+1 == len(tables) || i+1 == mostNamed || tables[i+1].why != t.why {
			fmt.Fprintf(&b, " (%s)", reasons[t.why].is)
		}
	}
	return b.String()
}

// unkeyed returns those tables of the spec of which UPDATE and DELETE fail.
func (p *publication) unkeyed(ctx context.Context, all members) ([]unkeyed, error) {
	columns, joins := p.applied()
	rows, err := session.Query(ctx, p.conn, `WITH
		named AS (SELECT c.oid FROM pg_catalog.pg_class c WHERE `+p.scope(all)+`),
		leaf AS (SELECT oid FROM named UNION SELECT t.relid FROM named n, pg_catalog.pg_partition_tree(n.oid) t),
		-- A table with the columns of its replica identity, and the list and the filter that apply to it. With publish_via_partition_root they are those
		-- of the topmost table that is published.
		checked AS (
			SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, c.relreplident = 'f' AS isfull, x.key, `+columns+`
			FROM leaf l JOIN pg_catalog.pg_class c ON c.oid = l.oid AND c.relkind = 'r' AND pg_catalog.pg_relation_is_publishable(c.oid)
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_catalog.pg_publication p ON p.pubname = `+pgsql.Literal(p.Name)+`
			CROSS JOIN LATERAL (SELECT pg_catalog.array_agg(a.attname) AS key FROM pg_catalog.pg_index i
				JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
				WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
				AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END) x
			`+joins+`),
		refused AS (SELECT name, CASE
			WHEN NOT isfull AND EXISTS (SELECT FROM pg_catalog.regexp_matches(filter, ':varattno ([0-9]+)', 'g') m
				LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = listed AND a.attnum = m[1]::int2
				WHERE a.attname IS NULL OR a.attname <> ALL (coalesce(key, '{}'))) THEN 'filter'
			WHEN isfull AND list IS NOT NULL THEN 'full'
			WHEN list IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.unnest(key) k
				WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = listed AND a.attname = k AND a.attnum = ANY (list))) THEN 'columns'
			WHEN generated IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = checked.oid AND NOT a.attisdropped
				AND (a.attgenerated = 'v' OR a.attgenerated = 's' AND generated = 'n') AND (isfull OR list IS NULL AND a.attname = ANY (key))) THEN 'generated'
			WHEN NOT isfull AND key IS NULL THEN 'identity'
			END AS why FROM checked)
		SELECT name, why FROM refused WHERE why IS NOT NULL ORDER BY why COLLATE "C" DESC, name COLLATE "C"`)
	if err != nil {
		return nil, pgfail.Failed("look up the replica identities of the tables", err)
	}
	tables := make([]unkeyed, len(rows))
	for i, r := range rows {
		tables[i] = unkeyed{r[0], r[1]}
	}
	return tables, nil
}

// scope is the condition for the tables that the spec names.
func (p *publication) scope(all members) string {
	if p.AllTables {
		return "c.relkind = 'r'"
	}
	var is []string
	for _, t := range all.tables {
		is = append(is, "c.oid = "+t.oid)
	}
	for _, s := range all.schemas {
		is = append(is, "c.relkind IN ('r', 'p') AND c.relnamespace = "+s.oid)
	}
	return strings.Join(is, " OR ")
}

// applied returns the columns listed, list, filter and generated, and the joins that they need: the table whose column list and row filter
// apply, these, and publish_generated_columns.
func (p *publication) applied() (columns, joins string) {
	if p.version < listsServer {
		return "NULL::oid AS listed, NULL::int2[] AS list, NULL::text AS filter, NULL::text AS generated", ""
	}
	return "top.oid AS listed, r.prattrs::int2[] AS list, r.prqual::text AS filter, pg_catalog.to_jsonb(p)->>'pubgencols' AS generated",
		`CROSS JOIN LATERAL (SELECT coalesce((SELECT a.relid FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY a(relid, nr)
				JOIN pg_catalog.pg_class t ON t.oid = a.relid
				WHERE p.pubviaroot AND (EXISTS (SELECT FROM pg_catalog.pg_publication_rel m WHERE m.prpubid = p.oid AND m.prrelid = t.oid)
					OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = t.relnamespace))
				ORDER BY a.nr DESC LIMIT 1), c.oid) AS oid) top
			LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = top.oid`
}
