package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
)

// TestMain: this binary is the program under test, too.
func TestMain(m *testing.M) {
	if os.Getenv("RECVLOGICAL_TEST_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs recvlogical, or with another name a program of PostgreSQL's.
func start(t *testing.T, c *pgtest.Cluster, name string, args ...string) *pgtest.Program {
	t.Helper()
	if name != "recvlogical" {
		return pgtest.Launch(t, c.Command(t, name, args...))
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RECVLOGICAL_TEST_RUN=1", "GORACE=atexit_sleep_ms=0")
	return pgtest.Launch(t, cmd)
}

// must runs recvlogical to its end.
func must(t *testing.T, c *pgtest.Cluster, args ...string) string {
	t.Helper()
	p := start(t, c, "recvlogical", args...)
	p.End(t)
	return p.Out.String()
}

// traffic is a bit of everything that test_decoding has a text for.
var traffic = []string{
	`CREATE SCHEMA "Sché""ma"`,
	`CREATE TYPE mood AS ENUM ('fine', 'not ''so'' fine')`, "CREATE TYPE pair AS (a int, b text)", "CREATE DOMAIN small AS int CHECK (VALUE < 10)",
	`CREATE TABLE "Sché""ma"."All types" (id serial PRIMARY KEY, b boolean, i2 smallint, i8 bigint, n numeric(12, 3), f4 real, f8 double precision, m money, c char(5), vc varchar(20),
		t text, ba bytea, d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, mac macaddr, p point, ls lseg, bx box,
		pa path, po polygon, ci2 circle, bt bit(3), vb varbit, tv tsvector, tq tsquery, ir int4range, nr numrange, ia int[], ta text[][], e mood, ea mood[], pr pair, sm small, o oid, l pg_lsn, na name)`,
	`INSERT INTO "Sché""ma"."All types" VALUES (DEFAULT, true, -1, 9223372036854775807, 'NaN', 0.1, 1e-300, 12.34, 'ab', 'it''s ü', E'line\n\ttab \\ back', '\x00ff', '2026-02-01', '10:11:12.5',
		'10:11:12+02', '2026-02-01 10:11:12.123456', '2026-02-01 10:11:12+00', '1 year 2 days 03:04:05', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" : 1}', '{"b": [1, null]}', '<a>&amp;</a>',
		'10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '(1,2)', '[(1,2),(3,4)]', '(3,4),(1,2)', '[(1,2),(3,4)]', '((1,2),(3,4),(5,0))', '<(1,2),3>', B'101', B'1', 'a:1 b:2', 'a & b',
		'[1,5)', '(,1.5]', '{1,NULL,3}', '{{a,"b c"},{NULL,"\""}}', 'not ''so'' fine', '{fine}', '(1,"x y")', 9, 42, '16/B374D848', 'name')`,
	`INSERT INTO "Sché""ma"."All types" DEFAULT VALUES`, `UPDATE "Sché""ma"."All types" SET id = 7, t = NULL WHERE id = 1`, `DELETE FROM "Sché""ma"."All types"`,
	"CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE nokey (v text)", "CREATE TABLE fullrow (v text, w int)", "ALTER TABLE fullrow REPLICA IDENTITY FULL",
	"CREATE TABLE child (id int REFERENCES t)", "CREATE TABLE toasted (id int PRIMARY KEY, n int, big text)", "ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL",
	"CREATE TABLE none ()", "INSERT INTO none DEFAULT VALUES",
	"INSERT INTO nokey VALUES ('a'), (NULL)", "UPDATE nokey SET v = 'b'", "DELETE FROM nokey",
	"INSERT INTO fullrow VALUES ('a', 1), (NULL, NULL)", "UPDATE fullrow SET w = 2", "DELETE FROM fullrow",
	"INSERT INTO toasted SELECT g, g, repeat('0123456789', 1000) FROM generate_series(1, 3) g", "UPDATE toasted SET n = 9", "UPDATE toasted SET id = id + 10, big = 'short' WHERE id = 1",
	// Subtransactions, committed and not, nested, with errors.
	"BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); SAVEPOINT b; INSERT INTO t VALUES (3); RELEASE b; ROLLBACK TO a; INSERT INTO t VALUES (4); RELEASE a; COMMIT",
	"DO $$ BEGIN FOR i IN 100..120 LOOP BEGIN INSERT INTO t VALUES (i / 2); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$",
	"BEGIN; INSERT INTO t VALUES (5); ROLLBACK", "BEGIN; SELECT 1; COMMIT", "CREATE TABLE ddl (i int)", "DROP TABLE ddl",
	// What is sent while it is in progress, if that is asked for.
	"BEGIN; INSERT INTO t SELECT g, repeat('s', 50) FROM generate_series(1000, 3000) g; SAVEPOINT a; INSERT INTO t SELECT g FROM generate_series(3001, 5000) g; ROLLBACK TO a; " +
		"SAVEPOINT b; UPDATE t SET v = 'u' WHERE id BETWEEN 1000 AND 2000; TRUNCATE nokey; SELECT pg_logical_emit_message(true, 'in', 'progress'); RELEASE b; COMMIT",
	"BEGIN; INSERT INTO t SELECT g FROM generate_series(6000, 9000) g; ROLLBACK",
	"TRUNCATE t CASCADE", "TRUNCATE nokey, fullrow RESTART IDENTITY", "BEGIN; TRUNCATE t, child; INSERT INTO t VALUES (1); COMMIT",
	"SELECT pg_logical_emit_message(false, 'at', 'once')", "SELECT pg_logical_emit_message(true, 'with', 'a transaction')", "SELECT pg_logical_emit_message(false, '', decode('000aff', 'hex')::bytea)",
	"BEGIN; SELECT pg_logical_emit_message(false, 'of', 'a rollback'); ROLLBACK",
	"CREATE MATERIALIZED VIEW mv AS SELECT * FROM t", "REFRESH MATERIALIZED VIEW mv", "ALTER TABLE t ADD w int DEFAULT 3", "ALTER TABLE t ALTER w TYPE text", "INSERT INTO t VALUES (2, 'v', 'w')", "VACUUM FULL t",
	// Prepared ones.
	"BEGIN; INSERT INTO t VALUES (20); PREPARE TRANSACTION 'one'", "INSERT INTO t VALUES (21)", "COMMIT PREPARED 'one'",
	"BEGIN; INSERT INTO t VALUES (22); SAVEPOINT a; INSERT INTO t VALUES (23); PREPARE TRANSACTION 'it''s two'", "ROLLBACK PREPARED 'it''s two'",
	"BEGIN; INSERT INTO t SELECT g FROM generate_series(10000, 12000) g; PREPARE TRANSACTION 'large'", "COMMIT PREPARED 'large'",
	"INSERT INTO t VALUES (99)",
}

// The output is that of pg_recvlogical, byte for byte, whatever test_decoding is told, in a database of another encoding too,
// and wherever it ends.
func TestSameAsPgRecvlogical(t *testing.T) {
	c := pgtest.Start(t, pgtest.WithSetting("logical_decoding_work_mem", "64kB"))
	pgtest.Exec(t, c.DSN(), "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
	for _, database := range []string{"postgres", "latin"} {
		t.Run(database, func(t *testing.T) { compare(t, c, database) })
	}
}

func compare(t *testing.T, c *pgtest.Cluster, database string) {
	dsn := c.DSN("dbname=" + database)
	runs := [][]string{nil, {"include-xids=0", "skip-empty-xacts=1", "force-binary=0"}, {"include-timestamp", "include-rewrites=on", "stream-changes"}, {"stream-changes=on"}, {"stream-changes=1", "skip-empty-xacts"}}
	slot := func(run int, of string) string { return fmt.Sprintf("%s_%d_%s", database, run, of) }
	for i := range runs {
		twoPhase := []string{"--two-phase"}[:i%2*btoi(c.Version() >= 15)]
		must(t, c, append(twoPhase, "-d", dsn, "--slot", slot(i, "go"), "--create-slot", "-P", "test_decoding")...)
		for _, of := range []string{"pg", "cut"} {
			pgtest.Exec(t, dsn, fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s', '%s')", slot(i, "go"), slot(i, of)))
		}
		if i%2 == 1 { // a copy has it not
			for _, of := range []string{"pg", "cut"} {
				pgtest.Exec(t, dsn, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", slot(i, of)),
					fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'test_decoding', false, true)", slot(i, of)))
			}
		}
	}
	pgtest.Exec(t, dsn, traffic...)
	end := pgtest.Query(t, dsn, "SELECT pg_current_wal_lsn()")
	for i, options := range runs {
		args := []string{"-d", dsn, "--start", "--no-loop", "--endpos", end}
		for _, o := range options {
			args = append(args, "-o", o)
		}
		cuts := lsns(t, dsn, slot(i, "go"))
		want, file := bothOutputs(t, c, args, slot(i, "pg"), slot(i, "go"))
		same(t, fmt.Sprintf("options %q", options), file, want)
		if len(want) < 10_000 {
			t.Errorf("options %q: %d bytes are not the traffic", options, len(want))
		}
		if i > 0 || database != "postgres" {
			continue
		}
		for range 12 { // somewhere, also inside of a transaction
			cut := cuts[rand.IntN(len(cuts))]
			pgtest.Exec(t, dsn, fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s', 'x_pg')", slot(i, "cut")), fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s', 'x_go')", slot(i, "cut")))
			want, got := bothOutputs(t, c, append(args, "--endpos", cut), "x_pg", "x_go")
			// Of a transaction that is committed behind the end either may have a part: it ends as well when the server says that it is there.
			if pg, ours := whole(want), whole(got); pg != ours || !strings.HasPrefix(want, got) && !strings.HasPrefix(got, want) {
				same(t, "until "+cut, got, want)
			}
			for _, s := range []string{"x_pg", "x_go"} {
				must(t, c, "-d", dsn, "--slot", s, "--drop-slot")
			}
		}
	}
}

// bothOutputs returns what pg_recvlogical writes to a file, and recvlogical to its standard output.
func bothOutputs(t *testing.T, c *pgtest.Cluster, args []string, pgSlot, slot string) (pg, ours string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pg")
	start(t, c, "pg_recvlogical", append(args, "--slot", pgSlot, "-f", file)...).End(t)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), must(t, c, append(args, "--slot", slot, "-f", "-")...)
}

// whole counts the transactions that are complete.
func whole(output string) int { return strings.Count(output, "\nCOMMIT ") }

func lsns(t *testing.T, dsn, slot string) []string {
	return strings.Fields(pgtest.Query(t, dsn, "SELECT string_agg(DISTINCT lsn::text, ' ') FROM pg_logical_slot_peek_changes('"+slot+"', NULL, NULL)"))
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.SplitAfter(got, "\n"), strings.SplitAfter(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			at := 0
			for at < min(len(g[i]), len(w[i])) && g[i][at] == w[i][at] {
				at++
			}
			t.Errorf("%s: line %d is\n%.200q, want\n%.200q", what, i, g[i][max(0, at-40):], w[i][max(0, at-40):])
			return
		}
	}
	t.Errorf("%s: %d lines, want %d", what, len(g), len(w))
}

// Killed again and again, and its file renamed in between, it loses no row; what comes twice are whole transactions at the place
// where it was killed. Then it ends by itself at a position.
func TestKilledAndRotated(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGHUP")
	}
	c := pgtest.Start(t)
	pgtest.Exec(t, c.DSN(), "CREATE TABLE t (id serial PRIMARY KEY, v text)")
	dir := t.TempDir()
	file := filepath.Join(dir, "9")
	args := []string{"-d", c.DSN(), "-S", "s", "--start", "-f", file, "-F", "1", "-o", "include-xids=off", "-o", "skip-empty-xacts"}
	p := start(t, c, "recvlogical", append(args, "--create-slot", "--if-not-exists")...)
	pgtest.Wait(t, c.DSN(), "SELECT count(*) = 1 FROM pg_replication_slots WHERE active")
	stop, stopped := make(chan struct{}), make(chan struct{})
	stopWriting := sync.OnceFunc(func() { close(stop); <-stopped })
	t.Cleanup(stopWriting)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				pgtest.Exec(t, c.DSN(), "INSERT INTO t (v) SELECT repeat('x', g) FROM generate_series(1, 50) g")
			}
		}
	}()
	renamed := 0
	for i := range 7 {
		grown(t, file, 1)
		if i%3 == 1 { // rotated
			if err := os.Rename(file, filepath.Join(dir, strconv.Itoa(renamed))); err != nil {
				t.Fatal(err)
			}
			renamed++
			p.Process.Signal(syscall.SIGHUP)
			grown(t, file, 1)
		}
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond) // some with an fsync in between, some without
		p.Kill()
		p = start(t, c, "recvlogical", append(args, "--if-not-exists", "--create-slot")...)
		size, _ := os.Stat(file)
		grown(t, file, size.Size()+1)
	}
	stopWriting()
	p.Stop(t)
	must(t, c, append(args, "--endpos", pgtest.Query(t, c.DSN(), "SELECT pg_current_wal_lsn()"))...)

	var text strings.Builder
	for i := range renamed {
		b, _ := os.ReadFile(filepath.Join(dir, strconv.Itoa(i)))
		text.Write(b)
	}
	b, _ := os.ReadFile(file)
	text.Write(b)
	next, again := 1, 0
	for _, m := range regexp.MustCompile(`(?m)^table public.t: INSERT: id\[integer\]:(\d+) v\[text\]:'x+'$`).FindAllStringSubmatch(text.String(), -1) {
		switch id, _ := strconv.Atoi(m[1]); {
		case id == next:
			next++
		case id < next:
			again++
		default:
			t.Fatalf("row %d is missing", next)
		}
	}
	if rows := pgtest.Query(t, c.DSN(), "SELECT count(*) FROM t"); rows != strconv.Itoa(next-1) {
		t.Errorf("%d rows, want %s", next-1, rows)
	}
	t.Logf("%d rows, %d of them twice", next-1, again)
}

// grown waits until the file has a size.
func grown(t *testing.T, file string, size int64) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if info, err := os.Stat(file); err == nil && info.Size() >= size {
			return
		}
	}
	t.Fatalf("%s does not grow to %d bytes", file, size)
}

// Nothing is acknowledged before it is safe: not before the fsync, and not where it fails.
func TestAcknowledgesWhatIsSafe(t *testing.T) {
	c := pgtest.Start(t)
	pgtest.Exec(t, c.DSN(), "CREATE TABLE t (id int)")
	must(t, c, "-d", c.DSN(), "-S", "s", "--create-slot")
	pgtest.Exec(t, c.DSN(), "INSERT INTO t VALUES (1)")
	at := func() string { return pgtest.Query(t, c.DSN(), "SELECT confirmed_flush_lsn FROM pg_replication_slots") }
	before, file := at(), filepath.Join(t.TempDir(), "f")
	p := start(t, c, "recvlogical", "-d", c.DSN(), "-S", "s", "--start", "-f", file, "-F", "3600", "-s", "1")
	grown(t, file, 10)
	pgtest.Wait(t, c.DSN(), "SELECT count(*) = 1 FROM pg_stat_replication WHERE reply_time > now() - interval '0.5 s' AND backend_start < now() - interval '2 s'") // statuses come
	if now := at(); now != before {
		t.Errorf("confirmed is %s before it is safe, and was %s", now, before)
	}
	p.Stop(t)
	if now := at(); now == before {
		t.Error("nothing is confirmed at the end")
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	pgtest.Exec(t, c.DSN(), "INSERT INTO t VALUES (2)")
	before = at()
	p = start(t, c, "recvlogical", "-d", c.DSN(), "-S", "s", "--start", "-f", "/dev/full")
	if err := p.Wait(); err == nil || !strings.Contains(p.Err.String(), "no space left") {
		t.Errorf("a full disk: %v, %s", err, p.Err.String())
	}
	if now := at(); now != before {
		t.Errorf("confirmed is %s, and was %s before the disk was full", now, before)
	}
}

func TestSlotsAndStart(t *testing.T) {
	c := pgtest.Start(t)
	pgtest.Exec(t, c.DSN(), "CREATE TABLE t (id int)")
	fails := func(want string, args ...string) {
		t.Helper()
		p := start(t, c, "recvlogical", append([]string{"-d", c.DSN(), "-S", "s"}, args...)...)
		if err := p.Wait(); err == nil || !strings.Contains(p.Err.String(), want) {
			t.Errorf("%q: %v, %s", args, err, p.Err.String())
		}
	}
	fails(`slot "s" does not exist`, "--start", "-n")
	fails(`slot "s" does not exist`, "--drop-slot")
	twoPhase := []string{"--create-slot", "-t"}
	if c.Version() < 15 {
		fails("two-phase needs PostgreSQL 15 or later", twoPhase...)
		twoPhase = twoPhase[:1]
	}
	must(t, c, append([]string{"-d", c.DSN(), "-S", "s"}, twoPhase...)...)
	fails(`slot "s" already exists`, "--create-slot")
	must(t, c, "-d", c.DSN(), "-S", "s", "--create-slot", "--if-not-exists")
	if got := pgtest.Query(t, c.DSN(), "SELECT plugin || two_phase FROM pg_replication_slots"); got != fmt.Sprint("test_decoding", c.Version() >= 15) {
		t.Errorf("the slot is of %s", got)
	}
	fails(`"no-such-option"`, "--start", "-o", "no-such-option")
	var ends []string
	for i := range 3 {
		pgtest.Exec(t, c.DSN(), fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		ends = append(ends, pgtest.Query(t, c.DSN(), "SELECT pg_current_wal_lsn()"))
	}
	got := must(t, c, "-d", c.DSN(), "-S", "s", "--start", "-I", ends[0], "-E", ends[1], "-o", "include-xids=0")
	if want := "BEGIN\ntable public.t: INSERT: id[integer]:1\nCOMMIT\n"; got != want {
		t.Errorf("from the first to the second:\n%swant\n%s", got, want)
	}
	must(t, c, "-d", c.DSN(), "-S", "s", "--drop-slot")
	pgtest.Exec(t, c.DSN(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	fails("pgoutput writes no text", "--start")
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--start":                            "which slot",
		"-S s":                               "what to do",
		"-S s --drop-slot --start":           "-drop-slot stands alone",
		"-S s --start --two-phase":           "-two-phase is for -create-slot",
		"-S s --create-slot --endpos 0/1":    "are for -start",
		"-S s --start --endpos x":            "endpos",
		"-S s --start --status-interval 0":   "at least 1",
		"-S s --start --fsync-interval -1":   "not be negative",
		"-S s --start -o":                    "needs an argument",
		"-S s --start more":                  `what is "more"?`,
		"-S s --start --no-such-flag":        "no-such-flag",
		"-S s --start --fsync-interval none": "invalid value",
	} {
		var out strings.Builder
		if _, err := parseFlags(strings.Fields(args), &out); err == nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %s", args, err, out.String())
		}
	}
	f, err := parseFlags(strings.Fields("--dsn d --slot s --start -P p -o a=b=c -o d -f x -F 0 -s 7 -I 0/1 -E 1/2 -n -v"), io.Discard)
	want := flags{dsn: "d", slot: "s", start: true, plugin: "p", file: "x", statusSecs: 7, startpos: 1, endpos: 1<<32 + 2, noLoop: true, verbose: true}
	if options := fmt.Sprint(f.options); err != nil || options != "map[a:b=c d:]" {
		t.Errorf("%v, options %s", err, options)
	}
	if f.options = nil; fmt.Sprint(f) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", f, want)
	}
	if _, err := parseFlags([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
