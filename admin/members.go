package admin

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
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// members are what the spec names.
type members struct {
	tables  []member
	schemas []member
}

// member is a table or a schema.
type member struct {
	oid, name string // the name is qualified, and quoted where it must be
	isThere   bool   // in the publication
	asked     PublishedTable
}

// String is the member as in CREATE PUBLICATION.
func (m *member) String() string {
	s := m.name
	if m.asked.Columns != nil {
		quoted := make([]string, len(m.asked.Columns))
		for i, c := range m.asked.Columns {
			quoted[i] = pgsql.Quoted(c)
		}
		s += " (" + strings.Join(quoted, ", ") + ")"
	}
	if m.asked.Where != "" {
		s += " WHERE (" + m.asked.Where + "\n)"
	}
	return s
}

// look looks up what the spec names.
func (p *publication) look(ctx context.Context) (all members, err error) {
	if len(p.Tables) > 0 {
		if all.tables, err = p.lookUpTables(ctx); err != nil {
			return all, err
		}
	}
	if len(p.Schemas) > 0 {
		all.schemas, err = p.lookUpSchemas(ctx)
	}
	return all, err
}

// lookUpTables looks up the tables, and those that inherit from them.
func (p *publication) lookUpTables(ctx context.Context) (all []member, err error) {
	names := make([]string, len(p.Tables))
	for i, t := range p.Tables {
		names[i] = t.Name
	}
	rows, err := session.Query(ctx, p.conn, p.families(names))
	switch sqlstate.Of(err) {
	case sqlstate.InvalidName, sqlstate.SyntaxError, sqlstate.FeatureNotSupported: // not a name, says to_regclass before version 16
		return nil, missing("table among", names, err)
	}
	if err != nil {
		return nil, pgfail.Failed("look up the tables", err)
	}
	var unknown, differs []string
	for _, r := range rows {
		nr, err := strconv.Atoi(r[0])
		if err != nil {
			return nil, pgfail.Failed("look up the tables", err)
		}
		m := member{oid: r[1], name: r[2], isThere: r[3] == "t", asked: p.Tables[nr-1]}
		i := slices.IndexFunc(all, func(other member) bool { return other.oid == m.oid })
		switch {
		case m.oid == "":
			unknown = append(unknown, m.asked.Name)
		case i < 0:
			all = append(all, m)
			if how := m.differs(r[4], r[5] == "t"); m.isThere && how != "" {
				differs = append(differs, m.name+" "+how)
			}
		case all[i].String() != m.String():
			return nil, pgfail.Invalid(fmt.Sprintf("table %s is asked for in two ways", m.name))
		}
	}
	switch {
	case unknown != nil:
		return nil, missing("table:", unknown, nil)
	case differs != nil:
		return nil, &walerr.Error{Kind: walerr.Publication, What: fmt.Sprintf("publication %q has %s", p.Name, strings.Join(differs, "; ")),
			Advice: "ALTER PUBLICATION … SET TABLE, or ask for what it has"}
	}
	return all, nil
}

// families asks for the tables, and for those that inherit from them. Its first columns are the place among names, the OID and the qualified
// name. Then it says whether the publication has the table: by itself, by a partitioned table above it, or by a schema. The last columns are
// the column list, and whether there is a row filter.
func (p *publication) families(names []string) string {
	list, filter, bySchema := "NULL::int2[]", "NULL", "false"
	if p.version >= listsServer {
		list, filter = "r.prattrs::int2[]", "r.prqual"
		bySchema = "EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = a.relnamespace)"
	}
	return `WITH RECURSIVE
		family AS (
			SELECT t.nr, pg_catalog.to_regclass(t.name)::pg_catalog.oid AS oid FROM pg_catalog.unnest(ARRAY[` + pgsql.Literals(names) + `]::text[]) WITH ORDINALITY t(name, nr)
			UNION
			SELECT f.nr, i.inhrelid FROM family f
			JOIN pg_catalog.pg_class c ON c.oid = f.oid AND c.relkind <> 'p' JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid)
		SELECT f.nr, c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), EXISTS (
				SELECT FROM pg_catalog.pg_class a WHERE (a.oid = c.oid OR a.oid IN (SELECT x.relid FROM pg_catalog.pg_partition_ancestors(c.oid) x(relid)))
				AND (` + bySchema + ` OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel m WHERE m.prpubid = p.oid AND m.prrelid = a.oid))),
			(SELECT pg_catalog.json_agg(a.attname) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (` + list + `)),
			` + filter + ` IS NOT NULL
		FROM family f
		LEFT JOIN pg_catalog.pg_class c ON c.oid = f.oid
		LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_publication p ON p.pubname = ` + pgsql.Literal(p.Name) + `
		LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
		ORDER BY f.nr`
}

// differs says how a table that is in the publication is another one than asked for. columns are those of its list, as JSON; "" is no list.
func (m *member) differs(columns string, filtered bool) string {
	var have []string
	if columns != "" {
		if err := json.Unmarshal([]byte(columns), &have); err != nil {
			return "a column list that cannot be read"
		}
	}
	is := func(columns []string) string {
		if columns == nil {
			return "all columns"
		}
		return "the columns " + strings.Join(columns, ", ")
	}
	want := slices.Sorted(slices.Values(m.asked.Columns))
	slices.Sort(have)
	switch {
	case m.asked.Columns != nil && !slices.Equal(have, want):
		return fmt.Sprintf("with %s, not %s", is(have), is(want))
	case m.asked.Where != "" && !filtered:
		return "without a row filter"
	}
	return ""
}

func (p *publication) lookUpSchemas(ctx context.Context) (all []member, err error) {
	rows, err := session.Query(ctx, p.conn, `SELECT t.name, n.oid, pg_catalog.quote_ident(n.nspname),
			EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
				WHERE p.pubname = `+pgsql.Literal(p.Name)+` AND s.pnnspid = n.oid)
		FROM pg_catalog.unnest(ARRAY[`+pgsql.Literals(p.Schemas)+`]::text[]) WITH ORDINALITY t(name, nr)
		LEFT JOIN pg_catalog.pg_namespace n ON n.oid = pg_catalog.to_regnamespace(t.name) ORDER BY t.nr`)
	switch sqlstate.Of(err) {
	case sqlstate.InvalidName, sqlstate.SyntaxError:
		return nil, missing("schema among", p.Schemas, err)
	}
	if err != nil {
		return nil, pgfail.Failed("look up the schemas", err)
	}
	var unknown []string
	for _, r := range rows {
		if r[1] == "" {
			unknown = append(unknown, r[0])
		}
		all = append(all, member{oid: r[1], name: r[2], isThere: r[3] == "t"})
	}
	if unknown != nil {
		return nil, missing("schema:", unknown, nil)
	}
	return all, nil
}

// missing is the error of tables or schemas that do not exist. what is "table:", or with names of which one is none, "table among".
func missing(what string, names []string, err error) error {
	return &walerr.Error{Kind: walerr.TableMissing, What: "no such " + what + " " + pgsql.Literals(names), Err: err,
		Advice: `create it, or name it as in SQL: shop.orders, shop."Order"`}
}
