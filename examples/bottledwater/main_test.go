package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/avro/ocf"

	"github.com/walchan/walchan/internal/pgtest"
)

// TestMain: this binary is the program under test, too.
func TestMain(m *testing.M) {
	if os.Getenv("BOTTLEDWATER_TEST_RUN") != "" {
		main()
		return
	}
	m.Run()
}

// program is bottledwater, running.
type program struct {
	*exec.Cmd
	stderr bytes.Buffer
	stdout strings.Builder
}

func command(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	p := &program{Cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	p.Env = append(os.Environ(), "BOTTLEDWATER_TEST_RUN=1")
	p.Stderr, p.Stdout = &p.stderr, &p.stdout
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("%v\n%s", args, &p.stderr)
		}
	})
	return p
}

// start starts the program on the database's own slot.
func start(t *testing.T, db pgtest.DB, args ...string) *program {
	t.Helper()
	p := command(t, append([]string{"-dsn", db.DSN(), "-slot", db.Name}, args...)...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// stop ends the program as Ctrl-C does, and returns its output.
func (p *program) stop(t *testing.T) string {
	t.Helper()
	p.Process.Signal(os.Interrupt)
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return p.stdout.String()
}

// fail waits for the program, which must fail, and say each of these.
func (p *program) fail(t *testing.T, names ...string) {
	t.Helper()
	p.Wait()
	if p.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", p.ProcessState)
	}
	for _, name := range names {
		if !strings.Contains(p.stderr.String(), name) {
			t.Errorf("it does not say %q", name)
		}
	}
}

// streams waits until the slot streams: it is active before, while it is made.
func streams(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid "+
		"WHERE slot_name = '"+db.Name+"' AND state = 'streaming'")
}

// confirmed waits until all that was done is confirmed, which means: written.
func confirmed(t *testing.T, db pgtest.DB) {
	t.Helper()
	end := db.Query(t, "SELECT pg_current_wal_insert_lsn()")
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND confirmed_flush_lsn >= '"+end+"'")
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// bottledwater's own example.
func TestExampleOfBottledwater(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	p := start(t, db, "-create-slot", "-allow-unkeyed")
	streams(t, db)
	db.Exec(t, "CREATE TABLE demo AS SELECT * FROM generate_series(1, 5) AS id")
	confirmed(t, db)
	numbers := regexp.MustCompile(`"xid": \d+|"wal_pos": "[0-9A-F]+/[0-9A-F]+"`)
	got := numbers.ReplaceAllStringFunc(p.stop(t), func(s string) string { return strings.Split(s, ": ")[0] })
	want := `{ "command": "BEGIN", "xid", "dbname": "` + db.Name + `" }` + "\n"
	for i := range 5 {
		want += fmt.Sprintf(`{ "command": "INSERT", "xid", "wal_pos", "dbname": "%s", "relname": "demo", "relnamespace": "public", "newtuple": {"id":%d} }`+"\n", db.Name, i+1)
	}
	compare(t, got, want+`{ "command": "COMMIT", "xid", "dbname": "`+db.Name+`" }`+"\n")
}

// The rows that exist, in a file, as row_to_json has them in UTC; then the changes; and going on in the same file.
func TestSnapshotThenChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, doc json)", "ALTER DATABASE "+db.Name+" SET timezone = 'Asia/Kolkata'",
		`INSERT INTO t SELECT g, '2026-01-02 03:04:05+00', '{"a": 1}' FROM generate_series(1, 1000) g`)
	file := filepath.Join(t.TempDir(), "out.json")
	p := start(t, db, "-create-slot", "-initial-snapshot", "-jobs", "1", "-o", file)
	streams(t, db)
	db.Exec(t, "DELETE FROM t WHERE id = 7")
	confirmed(t, db)
	p.stop(t)
	db.Exec(t, "DELETE FROM t WHERE id = 8")
	p = start(t, db, "-create-slot", "-initial-snapshot", "-o", file) // there is nothing to make any more
	streams(t, db)
	confirmed(t, db)
	compare(t, p.stop(t), "")

	lines := strings.Split(strings.TrimSuffix(read(t, file), "\n"), "\n")
	if len(lines) != 1006 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines[:1000] {
		want := fmt.Sprintf(`{ "command": "INSERT", "xid": 0, "dbname": "%s", "relname": "t", "relnamespace": "public", "key": ["id"], `+
			`"newtuple": {"id":%d,"at":"2026-01-02T03:04:05+00:00","doc":{"a": 1}} }`, db.Name, i+1)
		if line != want {
			t.Fatalf("got  %s\nwant %s", line, want)
		}
	}
	for i, want := range []string{"BEGIN", `"oldtuple": {"id":7}`, "COMMIT", "BEGIN", `"oldtuple": {"id":8}`, "COMMIT"} {
		if !strings.Contains(lines[1000+i], want) {
			t.Errorf("line %d is %s", 1001+i, lines[1000+i])
		}
	}
	if left, _ := filepath.Glob(file + partialSuffix); left != nil {
		t.Errorf("there is a %s", left)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// grows waits until a file has more than n bytes.
func grows(t *testing.T, file string, n int64) int64 {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if info, err := os.Stat(file); err == nil && info.Size() > n {
			return info.Size()
		}
	}
	t.Fatalf("%s does not grow", file)
	return 0
}

// Killed in the middle of the snapshot the program leaves no slot, and the next one begins anew; killed in the middle of the
// stream it goes on, with no line torn and no change lost.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "avro"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t)
			db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 50000) g")
			file := filepath.Join(t.TempDir(), "out")
			args := []string{"-create-slot", "-initial-snapshot", "-o", file, "-format", format}
			p := start(t, db, args...)
			grows(t, file+partialSuffix, 1<<20)
			p.Process.Kill()
			p.Wait()
			if n := db.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"); n != "0" {
				t.Skip("the snapshot was over sooner")
			}
			p = start(t, db, args...)
			streams(t, db)
			size := grows(t, file, 0)
			next := 50_001
			for range 4 {
				for range 50 {
					db.Exec(t, fmt.Sprintf("INSERT INTO t SELECT g, repeat('y', 500) FROM generate_series(%d, %d) g", next, next+19))
					next += 20
				}
				size = grows(t, file, size)
				p.Process.Kill()
				p.Wait()
				tear(t, file)
				p = start(t, db, args...)
				streams(t, db)
			}
			confirmed(t, db)
			p.stop(t)
			if !strings.Contains(p.stderr.String(), "torn, and are cut off") {
				t.Error("nothing was torn")
			}
			equalsTable(t, contents(t, format, file), next-1)
		})
	}
}

// A snapshot whose connection is lost starts over, in an empty file; on the standard output with a word about it.
func TestSnapshotStartsOver(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 50000) g")
	file := filepath.Join(t.TempDir(), "out")
	p := start(t, db, "-initial-snapshot", "-o", file, "-format", "avro")
	grows(t, file+partialSuffix, 1<<20)
	const lost = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE database = current_database() AND temporary"
	if n := db.Query(t, lost); n != "1" {
		t.Fatalf("%s connections were lost: the snapshot was over sooner", n)
	}
	streams(t, db)
	grows(t, file, 0)
	p.stop(t)
	if ids := contents(t, "avro", file); len(ids) != 50_000 {
		t.Errorf("%d rows", len(ids))
	} else {
		equalsTable(t, ids, 50_000)
	}

	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	p = command(t, "-dsn", db.DSN(), "-slot", db.Name, "-initial-snapshot", "-format", "avro")
	r, w := io.Pipe()
	p.Stdout = w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
		t.Fatal(err)
	}
	db.Query(t, lost)
	go io.Copy(io.Discard, r)
	streams(t, db)
	p.Process.Signal(os.Interrupt)
	if err := p.Wait(); err != nil || !strings.Contains(p.stderr.String(), "forget those before") {
		t.Errorf("%v: %s", err, &p.stderr)
	}
}

// tear leaves at the end of the file what a crash can.
func tear(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(`{ "command": "INS`); err != nil {
		t.Fatal(err)
	}
}

// contents returns the ids in a file, of the rows, in order.
func contents(t *testing.T, format, file string) (ids []string) {
	t.Helper()
	if format == "avro" {
		for _, c := range readContainer(t, file) {
			if c.Command == "INSERT" {
				ids = append(ids, fmt.Sprint(c.row["id"]))
			}
		}
		return ids
	}
	for line := range strings.Lines(read(t, file)) {
		if !strings.HasSuffix(line, " }\n") || !strings.HasPrefix(line, `{ "command": "`) {
			t.Errorf("not a line: %s", line)
		}
		if _, rest, ok := strings.Cut(line, `"newtuple": {"id":`); ok {
			id, _, _ := strings.Cut(rest, ",")
			ids = append(ids, id)
		}
	}
	return ids
}

// equalsTable wants the rows 1 to n: first those of the snapshot, each once, then the others, of which each transaction comes
// again only as a whole (the ids of each are 20 that follow each other).
func equalsTable(t *testing.T, ids []string, n int) {
	t.Helper()
	seen := map[string]int{}
	for i, id := range ids {
		seen[id]++
		if i < 50_000 && seen[id] > 1 {
			t.Fatalf("row %s of the snapshot twice", id)
		}
	}
	for id := 1; id <= n; id++ {
		if seen[fmt.Sprint(id)] == 0 {
			t.Fatalf("row %d is not there", id)
		}
	}
	if len(seen) != n {
		t.Errorf("%d rows, not %d", len(seen), n)
	}
	t.Logf("%d rows come again", len(ids)-n)
}

// record is a change as it is in a container, with its rows decoded.
type record struct {
	change
	key, oldKey, row, old map[string]any
}

func readContainer(t *testing.T, file string) (all []record) {
	t.Helper()
	r, err := ocf.NewReader(strings.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*avro.Schema{}
	decode := func(b []byte) (row map[string]any) {
		if b == nil {
			return nil
		}
		s := schemas[string(b[:10])]
		if s == nil {
			t.Fatal("a row without a schema before it")
		}
		if rest, err := s.DecodeSingleObject(b, &row); err != nil || len(rest) > 0 {
			t.Fatal(err)
		}
		return row
	}
	for {
		var c change
		if err := r.Decode(&c); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		for _, schema := range []*string{c.TupleSchema, c.KeySchema} {
			if schema != nil {
				begins, err := singleObject(*schema)
				if err != nil {
					t.Fatal(err)
				}
				schemas[string(begins)] = avro.MustParse(*schema)
			}
		}
		all = append(all, record{c, decode(c.Key), decode(c.OldKey), decode(c.NewTuple), decode(c.OldTuple)})
	}
}

// What Avro makes of values; and the schema that goes with them, before the first row and after an ALTER TABLE.
func TestAvro(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TYPE mood AS ENUM ('ok')`, `CREATE TABLE "odd-1" (id bigint PRIMARY KEY, "ü 1" int, n numeric, f4 real, f8 float8, ok boolean, v text, raw bytea,
		d date, tod time, ts timestamp, tz timestamptz, u uuid, doc jsonb, tags text[], m mood, o oid, big text)`, `ALTER TABLE "odd-1" ALTER big SET STORAGE EXTERNAL`)
	file := filepath.Join(t.TempDir(), "out.avro")
	p := start(t, db, "-create-slot", "-o", file, "-format", "avro")
	streams(t, db)
	db.Exec(t, `INSERT INTO "odd-1" VALUES (9007199254740993, -5, 12345678901234567890.123, 0.5, 1e300, true, 'ü', '\x00ff', '1969-12-31', '24:00', '0044-03-15 12:00 BC',
		'2026-01-02 03:04:05.123456+01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1}', '{a,NULL}', 'ok', 4294967295, repeat('x', 5000))`,
		`UPDATE "odd-1" SET id = 1, n = NULL`, `ALTER TABLE "odd-1" DROP doc; ALTER TABLE "odd-1" REPLICA IDENTITY FULL`, `UPDATE "odd-1" SET v = 'w'`,
		`DELETE FROM "odd-1"`, `TRUNCATE "odd-1"`)
	confirmed(t, db)
	p.stop(t)
	var commands []string
	records := readContainer(t, file)
	for _, r := range records {
		commands = append(commands, r.Command)
	}
	compare(t, strings.Join(commands, " "), "BEGIN TABLE INSERT COMMIT BEGIN UPDATE COMMIT BEGIN TABLE UPDATE COMMIT BEGIN DELETE COMMIT BEGIN TRUNCATE COMMIT")
	micros := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return at.UTC()
	}
	want := map[string]any{"id": int64(9007199254740993), "__1": int32(-5), "n": "12345678901234567890.123", "f4": float32(0.5), "f8": 1e300, "ok": true,
		"v": "ü", "raw": []byte{0, 255}, "d": micros("1969-12-31T00:00:00Z"), "tod": 24 * time.Hour, "ts": time.Date(-43, 3, 15, 12, 0, 0, 0, time.UTC),
		"tz": micros("2026-01-02T02:04:05.123456Z"), "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "doc": `{"a": 1}`, "tags": "{a,NULL}", "m": "ok",
		"o": int64(4294967295), "big": strings.Repeat("x", 5000)}
	insert, update, full, gone := records[2], records[5], records[9], records[12]
	for name, w := range want {
		if g := insert.row[name]; fmt.Sprint(g) != fmt.Sprint(w) {
			t.Errorf("%s is %T %v, not %v", name, g, g, w)
		}
	}
	if len(insert.row) != len(want) {
		t.Errorf("the row has %d fields", len(insert.row))
	}
	compare(t, fmt.Sprint(insert.key, update.key, update.oldKey, update.Unchanged, update.row["n"], update.row["big"], update.old),
		"map[id:9007199254740993] map[id:1] map[id:9007199254740993] [big] <nil> <nil> map[]")
	if full.row["v"] != "w" || full.old["v"] != "ü" || len(full.row) != len(want)-1 || gone.old["v"] != "w" || gone.row != nil {
		t.Errorf("with the whole old row: %v and %v", full, gone)
	}
	if *insert.WALPos == 0 || insert.XID == 0 || *insert.Name != "odd-1" || *insert.Schema != "public" || insert.Database != db.Name {
		t.Errorf("the record is %+v", insert.change)
	}
}

// A row that Avro cannot have ends the program, or is skipped with its position; what is before and behind it is there.
func TestOnError(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, d date)")
	file := filepath.Join(t.TempDir(), "out.avro")
	args := []string{"-o", file, "-format", "avro", "-on-error"}
	p := start(t, db, append(args, "exit", "-create-slot")...)
	streams(t, db)
	db.Exec(t, "INSERT INTO t VALUES (1, '2026-01-01')", "BEGIN; INSERT INTO t VALUES (2, '2026-01-01'); INSERT INTO t VALUES (3, 'infinity'); INSERT INTO t VALUES (4, NULL); COMMIT")
	p.fail(t, "insert public.t", "column d of public.t (date)", " at 0/", "-on-error log")
	p = start(t, db, append(args, "log")...)
	streams(t, db)
	confirmed(t, db)
	p.stop(t)
	if s := p.stderr.String(); !strings.Contains(s, "skipped: insert public.t xid ") || !strings.Contains(s, " at 0/") || strings.Contains(s, "infinity") {
		t.Errorf("it says %s", s)
	}
	ids := contents(t, "avro", file)
	if got := strings.Join(ids, " "); got != "1 2 2 4" && got != "1 2 1 2 4" {
		t.Errorf("rows %s", got)
	}
}

// Tables without a key are named before anything is made; one that is made later is refused when its first row comes.
func TestUnkeyed(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE "Log" (v text)`, "CREATE TABLE other (v text)", "CREATE TABLE ok (id int PRIMARY KEY)", "CREATE TABLE whole (v text); ALTER TABLE whole REPLICA IDENTITY FULL")
	start(t, db, "-create-slot").fail(t, `tables without a key: public."Log", public.other;`, "-allow-unkeyed")
	if n := db.Query(t, "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) + (SELECT count(*) FROM pg_publication)"); n != "0" {
		t.Errorf("%s things were left behind", n)
	}
	p := start(t, db, "-create-slot", "-tables", "ok,whole")
	streams(t, db)
	db.Exec(t, "INSERT INTO other VALUES ('no')", "INSERT INTO whole VALUES ('yes')")
	confirmed(t, db)
	if out := p.stop(t); !strings.Contains(out, `"key": ["v"], "newtuple": {"v":"yes"}`) || strings.Contains(out, "no") {
		t.Error(out)
	}
	db.Exec(t, "DROP PUBLICATION bottledwater", `DROP TABLE "Log", other`)
	p = start(t, db)
	streams(t, db)
	db.Exec(t, "CREATE TABLE later (v text)", "INSERT INTO later VALUES ('x')")
	p.fail(t, "insert public.later", "tables without a key")
}

// The other formats, and what bottledwater tells of tables.
func TestFormats(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id serial PRIMARY KEY, v varchar(20) NOT NULL DEFAULT 'x''y')", "CREATE PUBLICATION p FOR ALL TABLES",
		"CREATE TYPE pair AS (a int, b int); CREATE FUNCTION pair_json(pair) RETURNS json LANGUAGE sql AS 'SELECT json_build_array($1.a, $1.b)'",
		"CREATE CAST (pair AS json) WITH FUNCTION pair_json", "CREATE TABLE u (id int PRIMARY KEY, p pair)")
	p := command(t, "-dsn", db.DSN(), "-schema", "-tables", "t")
	if err := p.Run(); err != nil {
		t.Error(err)
	}
	compare(t, p.stdout.String(), `{ "relname": "t", "relnamespace": "public", "key": ["id"], "attributes": [`+
		`{ "name": "id", "type": "integer", "notnull": true, "default": "nextval('t_id_seq'::regclass)" }, `+
		`{ "name": "v", "type": "character varying(20)", "notnull": true, "default": "'x''y'::character varying" }] }`+"\n")
	for format, want := range map[string]string{
		"wal2json": `{"action":"B"}` + "\n" + `{"action":"I","schema":"public","table":"t","columns":[{"name":"id","type":"integer","value":1},{"name":"v","type":"character varying(20)","value":"a"}]}` + "\n" + `{"action":"C"}` + "\n",
		"debezium": `"after":{"id":1,"v":"a"},"source":{`,
	} {
		p := start(t, db, "-publication", "p", "-create-slot", "-format", format)
		streams(t, db)
		db.Exec(t, "INSERT INTO t VALUES (1, 'a')")
		confirmed(t, db)
		if out := p.stop(t); !strings.Contains(out, want) {
			t.Errorf("%s: %s", format, out)
		}
		if !strings.Contains(p.stderr.String(), "casts to json: public.u.p (pair)") {
			t.Error("it does not name the column with a cast")
		}
		db.Exec(t, "DELETE FROM t", "SELECT pg_drop_replication_slot('"+db.Name+"')")
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	if err := os.WriteFile(kept, []byte("something\nmore"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"-format", "xml", "-on-error", "stop"}, []string{"-format xml: not one of json, avro", "-on-error stop", "-dsn"}},
		{[]string{"-dsn", "host=127.0.0.1 port=1 password=secret"}, []string{"127.0.0.1:1", "check host and port"}},
		{[]string{"-dsn", db.DSN(), "-initial-snapshot", "-skip-snapshot"}, []string{"which?"}},
		{[]string{"-dsn", db.DSN(), "-slot", "nix"}, []string{`"nix"`, "-create-slot"}},
		{[]string{"-dsn", db.DSN(), "-slot", "nix", "-create-slot", "-o", "/nowhere/out"}, []string{"/nowhere/out"}},
		{[]string{"-dsn", db.DSN(), "-slot", "nix", "-create-slot", "-tables", "missing"}, []string{"missing"}},
		{[]string{"-dsn", db.DSN(), "-slot", "nix", "-initial-snapshot", "-o", kept}, []string{kept, "move it away"}},
		{[]string{"-dsn", db.DSN(), "-slot", "nix", "-create-slot", "-o", kept}, []string{kept, "lines of JSON", "-format"}},
		{[]string{"-dsn", db.DSN(), "-slot", "nix", "-create-slot", "-o", kept, "-format", "avro"}, []string{kept, "no Avro file", "-format"}},
	} {
		p := command(t, c.args...)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		p.fail(t, c.want...)
	}
	compare(t, read(t, kept), "something\nmore")
	if n := db.Query(t, "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'nix') + (SELECT count(*) FROM pg_publication)"); n != "0" {
		t.Error("something was left behind")
	}
}
