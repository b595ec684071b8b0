package admin_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/walerr"
)

// An existing publication is extended, and otherwise is what is asked for, or there is an error that says what differs.
func TestEnsurePublicationOfAnotherKind(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int PRIMARY KEY)",
		"CREATE PUBLICATION list FOR TABLE t", "CREATE PUBLICATION everything FOR ALL TABLES",
		"CREATE PUBLICATION inserts FOR TABLE t WITH (publish = 'insert', publish_via_partition_root)")
	c := connect(t, db.DSN())
	ensure := func(spec admin.PublicationSpec) error {
		created, err := c.EnsurePublication(t.Context(), spec)
		if created {
			t.Errorf("made %s", spec.Name)
		}
		return err
	}
	check(t, ensure(admin.PublicationSpec{Name: "list", AllTables: true}), walerr.Publication, `"list" has a list of tables, not all`, "choose another name", "DROP PUBLICATION list ")
	check(t, ensure(admin.PublicationSpec{Name: "everything", Tables: admin.Tables("t")}), walerr.Publication, `"everything" has all tables, not a list`)
	check(t, ensure(admin.PublicationSpec{Name: "inserts", Tables: admin.Tables("u"), Publish: []string{"truncate", "insert"}}), walerr.Publication,
		`"inserts" publishes "insert", not "insert, truncate"; it has publish_via_partition_root = true, not false;`,
		"ALTER PUBLICATION inserts SET (publish = 'insert, truncate')", "ALTER PUBLICATION inserts SET (publish_via_partition_root = false)")
	if got := published(t, db, "inserts"); got != "public.t" {
		t.Errorf("inserts has %s", got)
	}
	if err := ensure(admin.PublicationSpec{Name: "inserts", Tables: admin.Tables("u"), Publish: []string{"insert"}, ViaRoot: true}); err != nil {
		t.Error(err)
	}
	if got := published(t, db, "inserts"); got != "public.t,public.u" {
		t.Errorf("inserts has %s", got)
	}
	if err := ensure(admin.PublicationSpec{Name: "everything", AllTables: true}); err != nil {
		t.Error(err)
	}
	if err := ensure(admin.PublicationSpec{Name: "list", Tables: admin.Tables("t"), Publish: []string{"truncate", "delete", "update", "insert", "insert"}}); err != nil {
		t.Error(err)
	}
}

// Column lists, row filters and schemas.
func TestEnsurePublicationOfParts(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text, "Secret" text)`, `CREATE SCHEMA "Shop"`, `CREATE TABLE "Shop".orders (id int PRIMARY KEY)`)
	c := connect(t, db.DSN())
	part := admin.PublicationSpec{Name: "part", Tables: []admin.PublishedTable{{Name: "t", Columns: []string{"v", "id"}, Where: "id > 5 -- and so on"}}}
	schema := admin.PublicationSpec{Name: "schema", Schemas: []string{`"Shop"`, `"Shop"`}}
	if db.Version() < 15 {
		_, err := c.EnsurePublication(t.Context(), part)
		check(t, err, walerr.ServerVersion, "Columns needs PostgreSQL 15", "Where needs PostgreSQL 15")
		_, err = c.EnsurePublication(t.Context(), schema)
		check(t, err, walerr.ServerVersion, "Schemas needs PostgreSQL 15")
		return
	}
	is := func(name, want string) {
		t.Helper()
		if got := db.Query(t, "SELECT string_agg(concat_ws(' ', tablename, attnames, rowfilter), ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = '"+name+"'"); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	for _, spec := range []admin.PublicationSpec{part, schema} {
		for i := range 2 {
			if created, err := c.EnsurePublication(t.Context(), spec); err != nil || created != (i == 0) {
				t.Error(created, err)
			}
		}
	}
	is("part", "t {id,v} (id > 5)")
	is("schema", "orders {id}")
	change := func(change func(*admin.PublishedTable)) error {
		spec := part
		spec.Tables = slices.Clone(spec.Tables)
		change(&spec.Tables[0])
		_, err := c.EnsurePublication(t.Context(), spec)
		return err
	}
	// What is not asked for may be as it is.
	if err := change(func(p *admin.PublishedTable) { p.Columns, p.Where = nil, "" }); err != nil {
		t.Error(err)
	}
	is("part", "t {id,v} (id > 5)")
	check(t, change(func(p *admin.PublishedTable) { p.Columns = []string{"id"} }), walerr.Publication, "public.t with the columns id, v, not the columns id")
	check(t, change(func(p *admin.PublishedTable) { p.Columns = []string{"id", "v", "Secret"} }), walerr.Publication, "public.t with the columns id, v, not the columns Secret, id, v")
	db.Exec(t, "ALTER PUBLICATION part SET TABLE t")
	check(t, change(func(*admin.PublishedTable) {}), walerr.Publication, "public.t with all columns, not the columns id, v")
	check(t, change(func(p *admin.PublishedTable) { p.Columns = nil }), walerr.Publication, "public.t without a row filter")

	// A table that is there by its schema has neither.
	_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "schema", Tables: []admin.PublishedTable{{Name: `"Shop".orders`, Where: "id > 1"}}})
	check(t, err, walerr.Publication, `"Shop".orders without a row filter`)
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "schema", Tables: admin.Tables(`"Shop".orders`, "t")}); err != nil {
		t.Error(err)
	}
	is("schema", "orders {id},t {id,v,Secret}")
	if got := db.Query(t, "SELECT count(*) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid WHERE pubname = 'schema'"); got != "1" {
		t.Errorf("%s tables by themselves", got)
	}
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "part", Schemas: []string{`"Shop"`}, Tables: admin.Tables("t")}); err != nil {
		t.Error(err)
	}
	is("part", "orders {id},t {id,v,Secret}")

	for _, tt := range []struct {
		table admin.PublishedTable
		words []string
	}{
		{admin.PublishedTable{Name: "t", Columns: []string{"nosuch"}}, []string{"nosuch", "Columns or Where"}},
		{admin.PublishedTable{Name: "t", Where: "nosuch > 1"}, []string{"nosuch", "Columns or Where"}},
		{admin.PublishedTable{Name: "t", Where: "id >"}, []string{"Columns or Where"}},
		{admin.PublishedTable{Name: "t", Where: "id = (SELECT 1)"}, []string{"Columns and Where"}},
	} {
		_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "new", Tables: []admin.PublishedTable{tt.table}})
		check(t, err, walerr.Publication, append(tt.words, `"new"`)...)
	}
	_, err = c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "new", Tables: []admin.PublishedTable{{Name: "t", Where: "id > 1"}, {Name: "public.t"}}})
	check(t, err, walerr.Options, "public.t", "two ways")
	_, err = c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "new", Schemas: []string{"public", "Shop", "a.b.c"}})
	check(t, err, walerr.TableMissing, "schema", "'Shop'")
}

// Partitions and children are in with the tables above them.
func TestEnsurePublicationOfFamilies(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
		"CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child () INHERITS (parent)", "ALTER TABLE child ADD PRIMARY KEY (id)")
	c := connect(t, db.DSN())
	members := func(name string) string {
		return db.Query(t, "SELECT string_agg(prrelid::regclass::text, ',' ORDER BY prrelid::regclass::text) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid WHERE pubname = '"+name+"'")
	}
	for _, viaRoot := range []bool{false, true} {
		name := fmt.Sprint("parts_", viaRoot)
		for i := range 2 {
			if created, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: name, Tables: admin.Tables("parts", "parts_1")[:i+1], ViaRoot: viaRoot}); err != nil || created != (i == 0) {
				t.Error(created, err)
			}
		}
		if got := members(name); got != "parts" {
			t.Errorf("%s has %s", name, got)
		}
	}
	for i, spec := range []admin.PublicationSpec{{Tables: admin.Tables("parent")}, {Tables: admin.Tables("child", "parent")}} {
		spec.Name = fmt.Sprint("parent_", i)
		for range 2 {
			if _, err := c.EnsurePublication(t.Context(), spec); err != nil {
				t.Error(err)
			}
			if got := members(spec.Name); got != "child,parent" {
				t.Errorf("%s has %s", spec.Name, got)
			}
		}
	}
	// One that was made since is added.
	db.Exec(t, "CREATE TABLE grandchild () INHERITS (child)")
	_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "parent_0", Tables: admin.Tables("parent")})
	check(t, err, walerr.TableKey, "public.grandchild (")
	db.Exec(t, "ALTER TABLE grandchild ADD PRIMARY KEY (id)")
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "parent_0", Tables: admin.Tables("parent")}); err != nil {
		t.Error(err)
	}
	if got := members("parent_0"); got != "child,grandchild,parent" {
		t.Errorf("it has %s", got)
	}
}

// What is refused changes nothing, and says what would help. What is accepted is logged.
func TestEnsurePublicationOfUnkeyedTables(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE keyed (id int PRIMARY KEY)", "CREATE TABLE logs (line text)", `CREATE TABLE "Logs" (line text)`)
	var log logBuffer
	c := connect(t, db.DSN(), admin.WithLogger(log.logger()))
	all := admin.Tables("keyed", "logs", `"Logs"`)
	_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: all})
	if want := `walchan: publication "p" breaks UPDATE and DELETE of public."Logs", public.logs (no replica identity); ` +
		`ALTER TABLE public."Logs" ADD PRIMARY KEY (…), or ALTER TABLE public."Logs" REPLICA IDENTITY FULL, or publish neither (publish = 'insert, truncate'), or accept it (AllowUnkeyed)`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	check(t, err, walerr.TableKey)
	if n := db.Query(t, "SELECT count(*) FROM pg_publication"); n != "0" {
		t.Error("it was made")
	}

	// Beside tables that are there and have keys.
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: all[:1]}); err != nil {
		t.Error(err)
	}
	_, err = c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: all})
	check(t, err, walerr.TableKey, "public.logs (")
	if got := published(t, db, "p"); got != "public.keyed" {
		t.Errorf("it has %s", got)
	}
	if log.String() != "" {
		t.Error(log.String())
	}
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: all, AllowUnkeyed: true}); err != nil {
		t.Error(err)
	}
	if line := `level=WARN msg="a publication breaks UPDATE and DELETE of its tables" publication=p tables="public.\"Logs\", public.logs (no replica identity)"`; !strings.Contains(log.String(), line) {
		t.Errorf("logged is %s", log.String())
	}
	// What others have asked for does not matter.
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: all[:1]}); err != nil {
		t.Error(err)
	}
	// A key that is gone since is noticed at the next start.
	db.Exec(t, "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey")
	_, err = c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: all[:1]})
	check(t, err, walerr.TableKey, "public.keyed (")

	// All tables, also later ones.
	if _, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "everything", AllTables: true, AllowUnkeyed: true}); err != nil {
		t.Error(err)
	}
	if line := `level=WARN msg="tables that are made later are published, too: UPDATE and DELETE of one without a replica identity will fail" publication=everything`; !strings.Contains(log.String(), line) {
		t.Errorf("logged is %s", log.String())
	}
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprintf("CREATE TABLE many_%02d (id int)", i))
	}
	db.Exec(t, many...)
	_, err = c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "everything", AllTables: true})
	check(t, err, walerr.TableKey, "public.many_16 (no replica identity), and 13 more;")
}

// If nothing lacks, a role without privileges can call it, also on a standby.
func TestEnsurePublicationThatIsThere(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	pgtest.Exec(t, primary.DSN(), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE logs (line text)", "CREATE ROLE service LOGIN", "CREATE PUBLICATION p FOR TABLE t", "CREATE PUBLICATION q FOR TABLE t, logs")
	standby := primary.Standby(t)
	for _, dsn := range []string{primary.DSN("user=service"), standby.DSN("user=service")} {
		c := connect(t, dsn)
		if created, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "p", Tables: admin.Tables("t")}); err != nil || created {
			t.Error(created, err)
		}
		_, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: "q", Tables: admin.Tables("t", "logs")})
		check(t, err, walerr.TableKey, "public.logs (")
		if _, err := c.Slots(t.Context()); err != nil {
			t.Error(err)
		}
	}
	_, err := connect(t, primary.DSN("user=service")).EnsurePublication(t.Context(), admin.PublicationSpec{Name: "new", Tables: admin.Tables("t")})
	check(t, err, walerr.Permission, `"new"`, "CREATE on the database")
	check(t, connect(t, primary.DSN("user=service")).DropPublication(t.Context(), "p"), walerr.Permission, `"p"`)
	_, err = connect(t, standby.DSN()).EnsurePublication(t.Context(), admin.PublicationSpec{Name: "new", Tables: admin.Tables("t")})
	check(t, err, walerr.ServerDown, `"new"`, "standby")
	check(t, connect(t, standby.DSN()).DropPublication(t.Context(), "p"), walerr.ServerDown, `"p"`, "standby")
}

func TestPublicationSpecProblems(t *testing.T) {
	t.Parallel()
	c := connect(t, pgtest.Database(t).DSN())
	for _, tt := range []struct {
		spec  admin.PublicationSpec
		words []string
	}{
		{admin.PublicationSpec{}, []string{`publication ""`, "no tables"}},
		{admin.PublicationSpec{Name: "p", AllTables: true, Tables: admin.Tables("t"), Publish: []string{"insert", "select"}}, []string{"AllTables excludes", `Publish "select"`}},
		{admin.PublicationSpec{Name: "p", AllTables: true, Schemas: []string{"s\x00"}}, []string{"AllTables excludes", "zero byte"}},
		{admin.PublicationSpec{Name: "p", Tables: admin.Tables("t\x00")}, []string{"zero byte"}},
		{admin.PublicationSpec{Name: "p", Tables: []admin.PublishedTable{{Name: "t", Where: "a = '\x00'", Columns: []string{"", "a", "a"}}}, Schemas: []string{"s"}},
			[]string{"zero byte", `column ""`, `column "a" of t is named twice`, "Columns of t and Schemas"}},
	} {
		_, err := c.EnsurePublication(t.Context(), tt.spec)
		check(t, err, walerr.Options, tt.words...)
	}
	check(t, c.DropPublication(t.Context(), ""), walerr.Options, `publication ""`)
}

func TestDropPublication(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	app, c := newApplication(t, db), connect(t, db.DSN())
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", `CREATE PUBLICATION "it's ""p""" FOR ALL TABLES`)
	for range 2 {
		if err := c.DropPublication(t.Context(), `it's "p"`); err != nil {
			t.Error(err)
		}
		if n := db.Query(t, "SELECT count(*) FROM pg_publication"); n != "0" {
			t.Error("it is there")
		}
		if failed := app.fails("t"); failed != "" {
			t.Error(failed)
		}
	}
}

// Processes that start at once make what is asked for, or leave nothing.
func TestEnsurePublicationAtOnceBreaksNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	names := []string{"a", "b", "c", "d", "e"}
	for _, name := range names {
		db.Exec(t, "CREATE TABLE "+name+" (id int PRIMARY KEY, v text)")
	}
	db.Exec(t, "CREATE TABLE f (id int, v text)")
	app := newApplication(t, db)
	for round := range 10 {
		name := fmt.Sprint("p", round)
		type result struct {
			created bool
			err     error
		}
		results := make(chan result)
		ensure := func(names ...string) {
			c := connect(t, db.DSN())
			go func() {
				created, err := c.EnsurePublication(t.Context(), admin.PublicationSpec{Name: name, Tables: admin.Tables(names...)})
				c.Close()
				results <- result{created, err}
			}()
		}
		for i := range names {
			ensure(slices.Concat(names[i:], names[:i])[:3]...)
		}
		ensure("f", "a")
		made, refused := 0, 0
		for range len(names) + 1 {
			r := <-results
			if r.created {
				made++
			}
			if r.err != nil {
				check(t, r.err, walerr.TableKey, "public.f (")
				refused++
			}
		}
		if got := published(t, db, name); got != "public.a,public.b,public.c,public.d,public.e" || made != 1 || refused != 1 {
			t.Errorf("published are %s; made %d times, refused %d times", got, made, refused)
		}
		if failed := app.fails("a", "f"); failed != "" {
			t.Error(failed)
		}
	}
}
