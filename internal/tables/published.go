// Package tables chooses and describes published tables.
package tables

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/walerr"
)

// Table is a table as the server describes it.
type Table struct {
	OID          uint32
	Schema, Name string
	Identity     byte // pg_class.relreplident
	Columns      []attribute
}

type attribute struct {
	Name    string
	Key     bool // of the replica identity
	TypeOID uint32
	TypeMod int32
}

// String returns the name as in SQL, with the schema.
func (d *Table) String() string { return pgsql.Ident(d.Schema) + "." + pgsql.Ident(d.Name) }

// Index returns the place of a column; -1: there is none of that name.
func (d *Table) Index(column string) int {
	return slices.IndexFunc(d.Columns, func(a attribute) bool { return a.Name == column })
}

func (d *Table) Types() []uint32 {
	oids := make([]uint32, len(d.Columns))
	for i := range d.Columns {
		oids[i] = d.Columns[i].TypeOID
	}
	return oids
}

// Choice names tables, with what is to be read of them.
type Choice struct {
	Name    string // with * for any characters
	Columns []string
	Where   string
}

// Published is a table that the publications have.
type Published struct {
	Table       *Table
	Partitioned bool
	visible     bool     // its name needs no schema
	columns     []string // of the publication
	Where       string   // row filter of the publications, and the condition of the choice; "": none
	Binary      []bool   // of rel.Columns: it has a binary format
	Generated   bool     // a column is, which COPY refuses unless it is a query's
	hasIdentity bool
}

// OfPublications returns what the publications have. Of a table and a partitioned table above it only the latter: its
// publication has publish_via_partition_root, so that the changes come as its.
func OfPublications(ctx context.Context, c *session.Conn, version int, names []string) ([]*Published, error) {
	lists := "v.attnames, coalesce(v.rowfilter, '')" // per publication, from version 15 on
	if version < 150000 {
		lists = `(SELECT pg_catalog.array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), ''`
	}
	rows, err := c.Query(ctx, `WITH v AS (
			SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, pg_catalog.pg_table_is_visible(c.oid) AS visible, v.pubname, x.attnames, x.rowfilter
			FROM pg_catalog.pg_publication_tables v
			JOIN pg_catalog.pg_namespace n ON n.nspname = v.schemaname
			JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.tablename
			CROSS JOIN LATERAL (SELECT `+lists+`) x(attnames, rowfilter)
			WHERE v.pubname IN (`+pgsql.Literals(names)+`))
		SELECT oid, nspname, relname, relkind, relreplident, visible, coalesce(pg_catalog.to_json(attnames)::text, '[]'), rowfilter
		FROM v WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(v.oid) a JOIN v w ON w.oid = a.relid WHERE a.relid <> v.oid)
		ORDER BY nspname COLLATE "C", relname COLLATE "C", pubname COLLATE "C"`)
	if err != nil {
		return nil, pgfail.Failed("look up the tables of the publications", err)
	}
	var all []*Published
	for _, r := range rows {
		oid, err := strconv.ParseUint(r[0], 10, 32)
		if err != nil {
			return nil, pgfail.Failed("look up the tables of the publications", err)
		}
		t := &Published{Table: &Table{OID: uint32(oid), Schema: r[1], Name: r[2], Identity: r[4][0]},
			Partitioned: r[3] == "p", visible: r[5] == "t", Where: r[7]}
		if err := json.Unmarshal([]byte(r[6]), &t.columns); err != nil {
			return nil, pgfail.Failed("look up the tables of the publications", err)
		}
		if len(all) == 0 || all[len(all)-1].Table.OID != t.Table.OID {
			all = append(all, t)
			continue
		}
		// In several publications a row filter lets through what one of them does ("Row Filters", Combining Multiple Row Filters).
		first := all[len(all)-1]
		if !slices.Equal(first.columns, t.columns) {
			return nil, &walerr.Error{Kind: walerr.Publication, What: fmt.Sprintf("the publications have different column lists for %s", t.Table), Advice: "alter one of them: the server cannot stream such a table"}
		}
		if first.Where == "" || t.Where == "" {
			first.Where = ""
		} else if first.Where != t.Where {
			first.Where = "(" + first.Where + ") OR (" + t.Where + ")"
		}
	}
	return all, nil
}

// PublicationRows asks for all that the catalogue has of publications.
func PublicationRows(version int, names []string) string {
	which := "pg_catalog.pg_publication p WHERE p.pubname IN (" + pgsql.Literals(names) + ")"
	sql := "SELECT p::text FROM " + which + " UNION ALL SELECT r::text FROM pg_catalog.pg_publication_rel r, " + which + " AND r.prpubid = p.oid"
	if version >= 150000 {
		sql += " UNION ALL SELECT n::text FROM pg_catalog.pg_publication_namespace n, " + which + " AND n.pnpubid = p.oid"
	}
	return sql + " ORDER BY 1"
}

// Choose returns the tables that are named, with the columns and conditions of the first choice that names them.
func Choose(ctx context.Context, c *session.Conn, all []*Published, choices []Choice) ([]*Published, error) {
	if len(choices) == 0 {
		return all, nil
	}
	used := make([]bool, len(choices))
	var chosen []*Published
	for _, t := range all {
		for i, choice := range choices {
			pattern, _ := pgsql.ParsePattern(choice.Name) // validate has seen it
			if !pattern.Matches(t.Table.Schema, t.Table.Name, t.visible) {
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
func (t *Published) narrow(choice Choice) error {
	if choice.Columns != nil {
		for _, name := range choice.Columns {
			if !slices.Contains(t.columns, name) {
				return &walerr.Error{Kind: walerr.Publication, What: fmt.Sprintf("column %s of %s, which is asked for, is not published", pgsql.Ident(name), t.Table),
					Advice: "correct SnapshotTable.Columns, or alter the publication's column list"}
			}
		}
		t.columns = slices.DeleteFunc(t.columns, func(c string) bool { return !slices.Contains(choice.Columns, c) })
	}
	switch {
	case choice.Where == "":
	case t.Where == "":
		t.Where = choice.Where
	default:
		t.Where = "(" + t.Where + ") AND (" + choice.Where + "\n)"
	}
	return nil
}

// unpublished says what the tables are that are asked for and not published.
func unpublished(ctx context.Context, c *session.Conn, names []string) error {
	e := &walerr.Error{Kind: walerr.TableMissing, Advice: "add them to a publication of the stream, or correct the names"}
	var what []string
	for _, name := range names {
		rows, err := c.Query(ctx, "SAVEPOINT s; SELECT relkind, relpersistence FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass("+pgsql.Literal(name)+")")
		if err != nil { // no name, says to_regclass before version 16
			_, err = c.Query(ctx, "ROLLBACK TO s")
		}
		if err != nil {
			return pgfail.Failed("look up the tables", err)
		}
		is := "not published"
		if len(rows) == 0 && !strings.Contains(name, "*") {
			is = "no table of this database"
		}
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
