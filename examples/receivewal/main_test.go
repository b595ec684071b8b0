package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// TestMain: this binary is the program under test, too.
func TestMain(m *testing.M) {
	if os.Getenv("RECEIVEWAL_TEST_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs receivewal, or with another name a program of PostgreSQL's.
func start(t *testing.T, c *pgtest.Cluster, name string, args ...string) *pgtest.Program {
	t.Helper()
	if name != "receivewal" {
		return pgtest.Launch(t, c.Command(t, name, args...))
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RECEIVEWAL_TEST_RUN=1")
	return pgtest.Launch(t, cmd)
}

// must runs receivewal to its end.
func must(t *testing.T, c *pgtest.Cluster, args ...string) {
	t.Helper()
	start(t, c, "receivewal", args...).End(t)
}

const (
	write       = "CREATE TABLE IF NOT EXISTS w (a int, b text); INSERT INTO w SELECT g, repeat('x', 80) FROM generate_series(1, 20000) g" // 3 MB
	segmentMiB  = 16
	segmentByte = segmentMiB << 20
)

func flushed(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	return pgtest.Query(t, c.DSN(), "SELECT pg_current_wal_flush_lsn()")
}

// wait waits until a receiver has confirmed all WAL there is, and returns where that ends. The server may write more by itself.
func wait(t *testing.T, c *pgtest.Cluster, slots ...string) string {
	t.Helper()
	lsn := flushed(t, c)
	for _, slot := range slots {
		pgtest.Wait(t, c.DSN(), fmt.Sprintf("SELECT restart_lsn >= '%s' FROM pg_replication_slots WHERE slot_name = '%s'", lsn, slot))
	}
	return lsn
}

// files returns the content of a directory's files.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, e := range entries {
		if all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func names(all map[string][]byte) []string {
	var n []string
	for name := range all {
		n = append(n, name)
	}
	slices.Sort(n)
	return n
}

// same wants two directories to have the same files, byte for byte up to a position.
func same(t *testing.T, a, b, upTo string) {
	t.Helper()
	x, y := files(t, a), files(t, b)
	if !slices.Equal(names(x), names(y)) {
		t.Fatalf("%v in one, %v in the other", names(x), names(y))
	}
	end, err := walchan.ParseLSN(upTo)
	if err != nil {
		t.Fatal(err)
	}
	for name := range x {
		n := len(x[name])
		if _, begin, whole, ok := (&archive{size: segmentByte}).parseName(name); ok && !whole {
			n = min(n, int(end-begin))
		}
		if len(x[name]) != len(y[name]) || !bytes.Equal(x[name][:n], y[name][:n]) {
			t.Errorf("%s differs: %d bytes and %d", name, len(x[name]), len(y[name]))
		}
	}
}

// compare wants what is in the directory up to a position to be what the server has, without a missing segment, and returns
// the names of its files. All segments but the last of a timeline must be whole.
func compare(t *testing.T, c *pgtest.Cluster, dir, upTo string) []string {
	t.Helper()
	end, err := walchan.ParseLSN(upTo)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{size: segmentByte}
	all := files(t, dir)
	next, unfinished := walchan.LSN(0), "" // a partial segment behind which nothing of its timeline may come
	for _, file := range names(all) {
		timeline, begin, whole, ok := a.parseName(file)
		if !ok {
			continue
		}
		if next != 0 && begin != next && begin != next-segmentByte { // the latter where a timeline ends
			t.Errorf("%s: %s is missing", file, a.segmentName(timeline, next))
		}
		if unfinished != "" && unfinished[:8] == file[:8] {
			t.Errorf("%s has a successor", unfinished)
		}
		if unfinished = ""; !whole {
			unfinished = file
		}
		next = begin + segmentByte
		want, err := os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", a.segmentName(timeline, begin)))
		if err != nil {
			want, err = os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", a.segmentName(timeline, begin)+".partial")) // of a timeline that has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		n := segmentByte
		if !whole {
			n = max(min(n, int(end)-int(begin)), 0)
		}
		if len(all[file]) != segmentByte || !bytes.Equal(all[file][:n], want[:n]) {
			at := 0
			for at < min(n, len(all[file])) && all[file][at] == want[at] {
				at++
			}
			t.Errorf("%s, of %d bytes, differs from the server's first %d at %d", file, len(all[file]), n, at)
		}
	}
	if next < end {
		t.Errorf("%v end at %s, before %s", names(all), next, end)
	}
	return names(all)
}

// The files are those of pg_receivewal, which receives the same WAL, and pg_waldump reads them.
func TestFilesAreThoseOfPgReceivewal(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t)
	ours, theirs := t.TempDir(), t.TempDir()
	must(t, c, "-d", c.DSN(), "--slot", "ours", "--create-slot")
	must(t, c, "-d", c.DSN(), "--slot", "theirs", "--create-slot")
	their := start(t, c, "pg_receivewal", "-d", c.DSN(), "-D", theirs, "--slot", "theirs", "--synchronous")
	our := start(t, c, "receivewal", "-d", c.DSN(), "-D", ours, "--slot", "ours", "--synchronous")
	for range 6 {
		pgtest.Exec(t, c.DSN(), write)
	}
	pgtest.Exec(t, c.DSN(), "SELECT pg_switch_wal()", write, "SELECT pg_logical_emit_message(true, 'x', repeat('y', 20000000))")
	end := wait(t, c, "ours", "theirs")
	their.Stop(t)
	our.Stop(t)
	same(t, ours, theirs, end)
	got := compare(t, c, ours, end)
	if len(got) < 4 {
		t.Errorf("only %v", got)
	}
	for _, name := range got[:len(got)-1] {
		out, err := exec.Command(c.Bin("pg_waldump"), "--stats", filepath.Join(ours, name)).CombinedOutput()
		// What ends in the next file is not found there.
		if err != nil && !strings.Contains(string(out), "could not find file") && !strings.Contains(string(out), "error in WAL record") {
			t.Errorf("pg_waldump %s: %v\n%s", name, err, out)
		}
	}
	out, err := exec.Command(c.Bin("pg_waldump"), "--stats", filepath.Join(ours, got[0]), filepath.Join(ours, got[len(got)-2])).CombinedOutput()
	if !strings.Contains(string(out), "Heap") {
		t.Errorf("pg_waldump from %s to %s: %v\n%s", got[0], got[len(got)-2], err, out)
	}
}

// Killed again and again, it goes on where it was, and what the server was told is on disk.
func TestKilledAndResumed(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := pgtest.Start(t, pgtest.WithSetting("wal_keep_size", "1GB"))
	dir := t.TempDir()
	must(t, c, "-d", c.DSN(), "-S", "s", "--create-slot")
	args := []string{"-d", c.DSN(), "-D", dir, "-S", "s"}
	for i := range 12 {
		flags := args
		if i%2 == 0 {
			flags = append(flags, "--synchronous")
		}
		p := start(t, c, "receivewal", flags...)
		pgtest.Wait(t, c.DSN(), "SELECT active FROM pg_replication_slots")
		pgtest.Exec(t, c.DSN(), write, write)
		time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond) // anywhere
		p.Kill()
		pgtest.Wait(t, c.DSN(), "SELECT NOT active FROM pg_replication_slots") // what was told is taken in
		compare(t, c, dir, pgtest.Query(t, c.DSN(), "SELECT restart_lsn FROM pg_replication_slots"))
	}
	p := start(t, c, "receivewal", append(args, "--synchronous")...)
	end := wait(t, c, "s")
	p.Stop(t)
	if got := compare(t, c, dir, end); len(got) < 4 {
		t.Errorf("only %v", got)
	}
}

// The server is promoted: the new timeline has its history file, and begins with the segment in which the old one ended.
func TestTimelineIsFollowed(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	ours, theirs := t.TempDir(), t.TempDir()
	receivers := map[string]string{"receivewal": ours, "pg_receivewal": theirs}
	_, err := os.Stat(standby.Bin("pg_receivewal"))
	if err != nil {
		t.Logf("without pg_receivewal, which is not installed beside PostgreSQL %d's server", standby.Version())
		delete(receivers, "pg_receivewal")
	}
	var running []*pgtest.Program
	var slots []string
	for name, dir := range receivers {
		must(t, standby, "-d", standby.DSN(), "--slot", name, "--create-slot")
		running = append(running, start(t, standby, name, "-d", standby.DSN(), "-D", dir, "--slot", name, "--synchronous"))
		slots = append(slots, name)
		pgtest.Wait(t, standby.DSN(), "SELECT active FROM pg_replication_slots WHERE slot_name = '"+name+"'")
	}
	pgtest.Exec(t, primary.DSN(), write, "SELECT pg_switch_wal()", write)
	lsn := flushed(t, primary)
	pgtest.Wait(t, standby.DSN(), "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'")
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, standby.DSN(), write, write, write, write, write, write)
	end := wait(t, standby, slots...)
	for _, p := range running {
		p.Stop(t)
	}
	if len(receivers) == 2 {
		same(t, ours, theirs, end)
	}
	got := compare(t, standby, ours, end)
	if !slices.Contains(got, "00000002.history") {
		t.Errorf("there is no history file in %v", got)
	}

	// An archive of the first timeline alone is gone on with in the same way.
	for _, name := range got {
		if strings.HasPrefix(name, "00000002") {
			os.Remove(filepath.Join(ours, name))
		}
	}
	must(t, standby, "-d", standby.DSN(), "-D", ours, "--endpos", lsn)
	must(t, standby, "-d", standby.DSN(), "-D", ours, "--endpos", pgtest.Query(t, standby.DSN(), "SELECT pg_current_wal_flush_lsn() - 1"))
	if again := compare(t, standby, ours, end); !slices.Equal(again, got) {
		t.Errorf("%v, want %v", again, got)
	}
}

// A volume is restored, and the server writes other WAL at the same positions. receivewal refuses to continue an archive whose last
// segment has the WAL from before.
func TestOtherHistoryIsRefused(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t)
	pgtest.Exec(t, c.DSN(), write)
	must(t, c, "-d", c.DSN(), "-S", "s", "--create-slot")
	if err := c.Stop(t.Context(), pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	volume := c.Copy(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, c.DSN(), write)
	dir := t.TempDir()
	p := start(t, c, "receivewal", "-d", c.DSN(), "-D", dir, "-S", "s", "--synchronous")
	wait(t, c, "s")
	p.Stop(t)
	if err := c.Stop(t.Context(), pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	c.PutBack(t, volume, pgtest.Everything)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, c.DSN(), write)
	before := files(t, dir)
	p = start(t, c, "receivewal", "-d", c.DSN(), "-D", dir, "-S", "s", "--synchronous")
	defer time.AfterFunc(time.Minute, func() { p.Process.Kill() }).Stop()
	if err := p.Wait(); err == nil || !strings.Contains(p.Err.String(), ".partial has other WAL at") {
		t.Errorf("%v: %s", err, p.Err.String())
	}
	if after := files(t, dir); !slices.Equal(names(before), names(after)) {
		t.Errorf("%v, before %v", names(after), names(before))
	}
}

// A COMMIT returns when it is on the receiver's disk, and not before.
func TestSynchronousStandby(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithSetting("synchronous_standby_names", "archive"), pgtest.WithSetting("wal_sender_timeout", "1h"))
	pgtest.Exec(t, c.DSN("options='-c synchronous_commit=local'"), "CREATE TABLE t (a int)")
	dir := t.TempDir()
	p := start(t, c, "receivewal", "-d", c.DSN("application_name=archive"), "-D", dir, "--synchronous")
	pgtest.Wait(t, c.DSN(), "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming')")
	conn := pgtest.Connect(t, c.DSN()).PgConn()
	var commits []time.Duration
	for range 20 {
		began := time.Now()
		result, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1); SELECT pg_current_wal_insert_lsn()").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		commits = append(commits, time.Since(began))
		compare(t, c, dir, string(result[1].Rows[0][0]))
	}
	slices.Sort(commits)
	if median := commits[len(commits)/2]; median > 3*time.Second { // the status interval is 10 s
		t.Errorf("a commit took %v", median)
	}
	p.Kill()
	committed := make(chan error)
	go func() { committed <- conn.Exec(context.Background(), "INSERT INTO t VALUES (2)").Close() }()
	pgtest.Wait(t, c.DSN(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")
	start(t, c, "receivewal", "-d", c.DSN("application_name=archive"), "-D", dir, "--synchronous")
	if err := <-committed; err != nil {
		t.Error(err)
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t)
	slots := func(want string) {
		t.Helper()
		if got := pgtest.Query(t, c.DSN(), "SELECT coalesce(string_agg(slot_name || ' ' || slot_type, ', '), '') FROM pg_replication_slots WHERE restart_lsn IS NOT NULL"); got != want {
			t.Errorf("slots %q, want %q", got, want)
		}
	}
	fails := func(text string, args ...string) {
		t.Helper()
		p := start(t, c, "receivewal", args...)
		if err := p.Wait(); err == nil || !strings.Contains(p.Err.String(), text) {
			t.Errorf("%v: %v, %s", args, err, p.Err.String())
		}
	}
	must(t, c, "-d", c.DSN(), "--slot", "s", "--create-slot")
	slots("s physical")
	fails("exists", "-d", c.DSN(), "--slot", "s", "--create-slot")
	must(t, c, "-d", c.DSN(), "--slot", "s", "--create-slot", "--if-not-exists")
	must(t, c, "-d", c.DSN(), "--slot", "s", "--drop-slot")
	slots("")
	fails(`slot "s" does not exist`, "-d", c.DSN(), "--slot", "s", "--drop-slot")
	fails(`slot "s" does not exist`, "-d", c.DSN(), "--slot", "s", "-D", t.TempDir())
	fails("no such file", "-d", c.DSN(), "-D", "/nowhere")
	fails("Name it with -slot", "-d", c.DSN(), "--create-slot")
	fails("Name a directory", "-d", c.DSN())
	fails("what is", "-d", c.DSN(), "x")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "000000010000000000000001"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails("no whole segment", "-d", c.DSN(), "-D", dir)
}

func TestWhereAnArchiveEnds(t *testing.T) {
	for _, tt := range []struct {
		files    string
		start    walchan.LSN
		timeline uint32
	}{
		{"", 0, 0},
		{"00000001.history 000000010000000000000002.tmp x", 0, 0},
		{"000000010000000000000002", 3 << 24, 1},
		{"000000010000000000000002 000000010000000000000003.partial", 3 << 24, 1},
		{"000000010000000000000003 000000010000000000000003.partial", 4 << 24, 1},
		{"000000010000000000000003.partial 000000020000000000000003.partial", 3 << 24, 2},
		{"000000010000000000000003.partial 000000020000000000000003", 4 << 24, 2},
		{"000000010000000000000004 000000020000000000000003", 5 << 24, 1},
		{"0000000100000001000000FF", 2 << 32, 1},
		{"000000010000000100000100", 0, 0},
	} {
		dir := t.TempDir()
		for _, name := range strings.Fields(tt.files) {
			f, err := os.Create(filepath.Join(dir, name))
			if err == nil {
				err = f.Truncate(segmentByte)
				f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		a, err := openArchive(dir, segmentByte)
		if err != nil || a.start != tt.start || a.timeline != tt.timeline {
			t.Errorf("%s: %s on timeline %d, %v", tt.files, a.start, a.timeline, err)
		}
	}
}
