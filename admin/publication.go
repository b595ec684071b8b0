package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
)

// PublicationSpec describes a publication. Names of tables and schemas are as in SQL: shop.orders, shop."Order". A table without a schema is
// found by the search_path.
type PublicationSpec struct {
	Name      string
	Tables    []PublishedTable
	Schemas   []string // all tables of these schemas, also later ones (PostgreSQL 15 or later)
	AllTables bool     // all tables of the database, also later ones; it excludes Tables and Schemas
	Publish   []string // of "insert", "update", "delete" and "truncate"; default: all four
	ViaRoot   bool     // changes of partitions come as the root's (publish_via_partition_root)

	// AllowUnkeyed accepts that UPDATE and DELETE fail: see EnsurePublication. The tables are logged.
	AllowUnkeyed bool
}

// PublishedTable is a table of a PublicationSpec. Tables that inherit from it are published with it, as in SQL.
type PublishedTable struct {
	Name    string
	Columns []string // default: all (PostgreSQL 15 or later)
	Where   string   // row filter, a condition in SQL; default: all rows (PostgreSQL 15 or later)
}

// Tables returns PublishedTables with all columns and rows.
func Tables(names ...string) []PublishedTable {
	all := make([]PublishedTable, len(names))
	for i, name := range names {
		all[i].Name = name
	}
	return all
}

// EnsurePublication makes the publication, or adds what it lacks. It removes nothing, and leaves a table that is there as it is. Call it at
// every start, also in several processes at once. created reports whether this call made the publication.
//
// PostgreSQL refuses every UPDATE and DELETE of a published table without a replica identity: the application that writes to it breaks. So EnsurePublication
// refuses such tables (walerr.TableKey), and then it has changed nothing. The error names the tables and the ways out. A table has a replica identity
// if it has a primary key that is not deferrable, or REPLICA IDENTITY FULL, or USING INDEX. Where may only use columns of it, and Columns must
// have all of it; with FULL there are no Columns. All partitions of a partitioned table count. None of this matters if Publish has neither
// update nor delete. With AllowUnkeyed the tables are logged instead.
//
// Tables that are made later, in AllTables or Schemas or as partitions, are published without a check: UPDATE and DELETE of one fail if it has
// no replica identity. The next EnsurePublication names it. The same holds for a replica identity that is dropped later.
//
// If an existing publication differs in Publish, ViaRoot or AllTables, or has a table with other Columns than asked for, or without the Where that is
// asked for, the error is walerr.Publication. Two row filters are not compared.
//
// The role needs the CREATE privilege on the database for a new publication, owns one that is extended, and owns the tables. Schemas and AllTables
// take a superuser. If nothing lacks, the role needs no privilege.
func (c *Conn) EnsurePublication(ctx context.Context, spec PublicationSpec) (created bool, err error) {
	if err := spec.validate(); err != nil {
		return false, err
	}
	conn, err := c.database(ctx, "EnsurePublication")
	if err != nil {
		return false, err
	}
	text := conn.ParameterStatus("server_version")
	p := &publication{PublicationSpec: &spec, conn: conn, version: session.ParseVersion(text), log: c.log}
	if err := spec.checkVersion(p.version, text); err != nil {
		return false, err
	}
	return p.ensure(ctx)
}

// DropPublication drops a publication. A missing one is no error. Streams that use it end with walerr.PublicationMissing. The role must own it.
func (c *Conn) DropPublication(ctx context.Context, name string) error {
	if !pgsql.IsName(name) {
		return pgfail.Invalid(notPublicationName(name))
	}
	conn, err := c.database(ctx, "DropPublication")
	if err != nil {
		return err
	}
	if _, err := session.Query(ctx, conn, "DROP PUBLICATION IF EXISTS "+pgsql.Quoted(name)); err != nil {
		return pgfail.Failed(fmt.Sprintf("drop publication %q", name), err)
	}
	return nil
}

func notPublicationName(name string) string {
	return fmt.Sprintf("publication %q: not a name of 1 to 63 bytes", name)
}

// actions are what a publication can publish.
var actions = []string{"insert", "update", "delete", "truncate"}

// validate names everything that is wrong at once.
func (s *PublicationSpec) validate() error {
	var problems []string
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !pgsql.IsName(s.Name) {
		wrong("%s", notPublicationName(s.Name))
	}
	switch named := len(s.Tables) + len(s.Schemas); {
	case s.AllTables && named > 0:
		wrong("AllTables excludes Tables and Schemas")
	case !s.AllTables && named == 0:
		wrong("no tables: name Tables or Schemas, or set AllTables")
	}
	for _, action := range s.Publish {
		if !slices.Contains(actions, action) {
			wrong("Publish %q: it is one of %s", action, strings.Join(actions, ", "))
		}
	}
	for _, schema := range s.Schemas {
		if strings.ContainsRune(schema, 0) {
			wrong("the name of a schema has a zero byte")
		}
	}
	for _, t := range s.Tables {
		if strings.ContainsRune(t.Name+t.Where, 0) {
			wrong("the name or the condition of a table has a zero byte")
		}
		if t.Columns != nil && len(s.Schemas) > 0 {
			wrong("Columns of %s and Schemas exclude one another", t.Name)
		}
		for i, column := range t.Columns {
			if !pgsql.IsName(column) {
				wrong("column %q of %s: not a name of 1 to 63 bytes", column, t.Name)
			}
			if slices.Contains(t.Columns[:i], column) {
				wrong("column %q of %s is named twice", column, t.Name)
			}
		}
	}
	return pgfail.Invalid(problems...)
}

// checkVersion fails if the server is too old for the spec.
func (s *PublicationSpec) checkVersion(version int, text string) error {
	var missing []string
	for _, f := range []struct {
		name  string
		asked bool
	}{
		{"Schemas", len(s.Schemas) > 0},
		{"Columns", slices.ContainsFunc(s.Tables, func(t PublishedTable) bool { return t.Columns != nil })},
		{"Where", slices.ContainsFunc(s.Tables, func(t PublishedTable) bool { return t.Where != "" })},
	} {
		if f.asked {
			missing = pgfail.Needs(missing, version, f.name, listsServer/10000)
		}
	}
	return pgfail.TooOld(missing, text)
}

// listsServer is the first version whose publications have schemas, column lists and row filters.
const listsServer = 150000

// publishes reports whether the publication publishes an action.
func (s *PublicationSpec) publishes(action string) bool {
	return len(s.Publish) == 0 || slices.Contains(s.Publish, action)
}

// published returns the actions that it publishes, in the order of actions.
func (s *PublicationSpec) published() []string {
	return slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return !s.publishes(a) })
}
