package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
)

// TestMain: this binary is the program under test, too.
func TestMain(m *testing.M) {
	if os.Getenv("QUICKSTART_TEST_RUN") != "" {
		main()
		return
	}
	m.Run()
}

// program is quickstart, not yet started. When the test ends, its servers must be gone with their directories.
type program struct {
	*exec.Cmd
	stderr bytes.Buffer
}

func quickstart(t *testing.T, args ...string) *program {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "qs") // short, as a socket's path has to be
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the server may run as another user
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	p := &program{Cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	p.Env = append(os.Environ(), "QUICKSTART_TEST_RUN=1", "TMPDIR="+dir)
	p.Stderr = &p.stderr
	t.Cleanup(func() {
		cancel()
		if err := os.Remove(dir); err != nil {
			t.Errorf("something was left behind: %v", err)
			os.RemoveAll(dir)
		}
		if t.Failed() {
			t.Logf("stderr:\n%s", &p.stderr)
		}
	})
	return p
}

// open starts the program and returns its output.
func (p *program) open(t *testing.T) *bufio.Reader {
	t.Helper()
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(out)
}

// end waits for the program, which must succeed.
func (p *program) end(t *testing.T) {
	t.Helper()
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
}

// output runs the program to its end.
func (p *program) output(t *testing.T) string {
	t.Helper()
	b, err := io.ReadAll(p.open(t))
	if err != nil {
		t.Fatal(err)
	}
	p.end(t)
	return string(b)
}

func readLine(t *testing.T, r *bufio.Reader) map[string]any {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, s)
}

func parse(t *testing.T, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return m
}

func TestShopAsJSON(t *testing.T) {
	t.Parallel()
	p := quickstart(t)
	kinds := map[any]int{}
	var unchanged, moved, removed, last map[string]any
	positions := map[any]bool{}
	for s := range strings.Lines(p.output(t)) {
		m := parse(t, s)
		kinds[m["kind"]]++
		positions[m["position"]] = true
		switch {
		case m["unchanged"] != nil:
			unchanged = m
		case m["kind"] == "update" && m["table"] == "public.customers" && m["old"] != nil:
			moved = m
		case m["kind"] == "truncate":
			removed = m
		}
		last = m
	}
	for kind, n := range map[string]int{"insert": 511, "update": 6, "delete": 2, "truncate": 1, "message": 1} {
		if kinds[kind] != n {
			t.Errorf("%s: %d, not %d", kind, kinds[kind], n)
		}
	}
	if len(positions) != 521 {
		t.Errorf("%d positions for 521 messages", len(positions))
	}
	equal(t, unchanged, "unchanged", `["manual"]`)
	equal(t, unchanged, "new", `{"price":34.9,"sku":"lamp","specs":{"dim":true,"watts":7}}`)
	equal(t, moved, "old", `{"id":2}`)
	equal(t, removed, "tables", `["public.carts","public.visits"]`)
	equal(t, last, "payload", `"closed"`)
	const seen = "seen: 511 inserts, 6 updates, 2 deletes, 1 truncate, 1 logical message in 13 transactions, "
	if !strings.Contains(p.stderr.String(), seen) {
		t.Errorf("there is no %q", seen)
	}
}

// equal compares a member of m, as JSON.
func equal(t *testing.T, m map[string]any, key, want string) {
	t.Helper()
	if b, _ := json.Marshal(m[key]); string(b) != want {
		t.Errorf("%s is %s, not %s", key, b, want)
	}
}

func TestShopForPeople(t *testing.T) {
	t.Parallel()
	out := quickstart(t, "-json=false").output(t)
	for _, want := range []string{
		"insert    customers  id=1  name='Ada Lovelace'  tags={early,\"pays cash\"}  since=2026-01-05 09:00:00+00\n",
		"update    customers  id=2 → 20  name='Grace Hopper'  tags={}  since=2026-02-11 17:30:00+00\n",
		"update    orders     id=1001  customer=1  status=new → paid  total=168.90  at=2026-03-01 10:15:00+00\n",
		"update    products   sku='lamp'  price=34.90  specs={\"dim\": true, \"watts\": 7}  manual=(unchanged)\n",
		"insert    products   sku='chair'  price=129.00  specs={\"legs\": 4}  manual=null\n",
		"delete    customers  id=20\n",
		"… and 495 more\n",
		"truncate  carts, visits\n",
		"message   shop       'closed'\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q", want)
		}
	}
	column := strings.Index(out, "change")
	for s := range strings.Lines(out) {
		if s[column-1] != ' ' || s[column] == ' ' {
			t.Errorf("not aligned: %s", s)
		}
	}
	if t.Failed() {
		t.Log("\n" + out)
	}
}

// As in quickstart | head -n 3.
func TestReaderHasSeenEnough(t *testing.T) {
	t.Parallel()
	p := quickstart(t)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout = out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	r := bufio.NewReaderSize(in, 16) // reads no more than it has to, or all of the output may fit
	for range 3 {
		readLine(t, r)
	}
	in.Close()
	p.end(t)
	if strings.Contains(p.stderr.String(), "message") {
		t.Error("the program came to its end undisturbed")
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	p := quickstart(t)
	out := p.open(t)
	readLine(t, out)
	p.Process.Signal(os.Interrupt)
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	p.end(t)
}

// What is committed from the time on when a slot has its position is seen.
const slots = "FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL"

func TestLookAtOwnServer(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE "Ördérs" (id int PRIMARY KEY); CREATE TABLE other (id int)`)
	p := quickstart(t, "-dsn", db.DSN(), "-table", `"Ördérs"`)
	out := p.open(t)
	db.Wait(t, "SELECT count(*) = 1 "+slots+" AND temporary")
	db.Exec(t, `INSERT INTO other VALUES (1)`, `INSERT INTO "Ördérs" VALUES (2)`)
	m := readLine(t, out)
	equal(t, m, "table", `"public.\"Ördérs\""`)
	equal(t, m, "new", `{"id":2}`)
	p.Process.Signal(os.Interrupt)
	p.end(t)
	if n := db.Query(t, "SELECT count(*) FROM pg_publication"); n != "0" {
		t.Error("a publication was left behind")
	}
	db.Wait(t, "SELECT count(*) = 0 "+slots)
}

func TestGoOnFromSlot(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	args := []string{"-dsn", db.DSN(), "-slot", db.Name, "-publication", "p", "-n", "2"}
	p := quickstart(t, append(args, "-create-slot")...)
	out := p.open(t)
	db.Wait(t, "SELECT count(*) = 1 "+slots+" AND NOT temporary")
	db.Exec(t, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)", "INSERT INTO t VALUES (4)")
	equal(t, readLine(t, out), "new", `{"id":1}`)
	equal(t, readLine(t, out), "new", `{"id":2}`)
	p.end(t)

	// The second message may come again: its transaction is confirmed only if its end was received before the program left.
	p = quickstart(t, args...)
	out = p.open(t)
	m := readLine(t, out)
	if id := m["new"].(map[string]any)["id"]; id == 2.0 {
		equal(t, readLine(t, out), "new", `{"id":3}`)
	} else {
		equal(t, m, "new", `{"id":3}`)
		equal(t, readLine(t, out), "new", `{"id":4}`)
	}
	p.end(t)
}

func TestOtherPlugin(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)")
	p := quickstart(t, "-dsn", db.DSN(), "-plugin", "test_decoding", "-n", "3")
	out := p.open(t)
	db.Wait(t, "SELECT count(*) = 1 "+slots)
	db.Exec(t, "INSERT INTO t VALUES (1)")
	for _, want := range []string{"BEGIN", "table public.t: INSERT: id[integer]:1", "COMMIT"} {
		if s, _ := out.ReadString('\n'); !strings.HasPrefix(s, want) {
			t.Errorf("%q, not %s", s, want)
		}
	}
	p.end(t)
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	for _, c := range []struct {
		args []string
		env  string
		want string
	}{
		{nil, "WALCHAN_PGBIN=/nowhere", "no PostgreSQL server programs"},
		{[]string{"-table", "t"}, "", "which server?"},
		{[]string{db.DSN(), "-table", "t"}, "", "-dsn"},
		{[]string{"-dsn", db.DSN(), "-table", "t", "u"}, "", `"u" is not a flag`},
		{[]string{"-dsn", db.DSN(), "-plugin", "test_decoding", "-slot", "nix"}, "", "here: -create-slot"},
		{[]string{"-dsn", "host=127.0.0.1 port=1", "-table", "t"}, "", "127.0.0.1:1"},
		{[]string{"-dsn", db.DSN()}, "", "what to look at?"},
		{[]string{"-dsn", db.DSN(), "-table", "nix"}, "", "nix"},
		{[]string{"-dsn", db.DSN(), "-table", "t", "-slot", "s"}, "", "name it with -publication"},
		{[]string{"-dsn", db.DSN(), "-publication", "nix"}, "", `no such publication: "nix"`},
		{[]string{"-dsn", db.DSN(), "-publication", "nix", "-create-slot"}, "", "WithCreateSlot needs WithSlot"},
	} {
		p := quickstart(t, c.args...)
		p.Env = append(p.Env, c.env)
		err := p.Run()
		if p.ProcessState.ExitCode() != 1 || !strings.Contains(p.stderr.String(), c.want) {
			t.Errorf("%v: %v, without %q:\n%s", c.args, err, c.want, &p.stderr)
		}
	}
}
