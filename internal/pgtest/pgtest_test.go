package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestNewAndClose(t *testing.T) {
	t.Parallel()
	c, err := New(t.Context(), WithSetting("wal_sender_timeout", "1234ms"), WithSetting("cluster_name", `it's a \`))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for setting, want := range map[string]string{
		"wal_level":          "logical",
		"fsync":              "off",
		"server_encoding":    "UTF8",
		"lc_collate":         "C",
		"wal_sender_timeout": "1234ms",
		"cluster_name":       `it's a \`,
		"port":               fmt.Sprint(c.Port()),
	} {
		for _, dsn := range []string{c.DSN("application_name=x"), c.SocketDSN()} {
			if got := Query(t, dsn, "SELECT setting FROM pg_settings WHERE name = '"+setting+"'"); strings.TrimSuffix(want, "ms") != got {
				t.Errorf("%s is %q, want %q", setting, got, want)
			}
		}
	}
	if got := Query(t, c.DSN(), "SELECT current_setting('server_version_num')::int / 10000"); got != fmt.Sprint(c.Version()) {
		t.Errorf("Version is %d, the server says %s", c.Version(), got)
	}
	Connect(t, c.DSN("replication=true"))
	if _, err := os.Stat(c.Bin("pg_recvlogical")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close, %s: %v", c.dir, err)
	}
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.Port())); err == nil {
		conn.Close()
		t.Error("after Close, the port takes connections")
	}
}

func TestEveryClusterHasAnIdentity(t *testing.T) {
	t.Parallel()
	const sql = "SELECT system_identifier FROM pg_control_system()"
	if a, b := Query(t, Start(t).DSN(), sql), Query(t, Shared(t).DSN(), sql); a == b {
		t.Errorf("both are %s", a)
	}
}

func TestStartShowsWhyItFails(t *testing.T) {
	t.Parallel()
	c, err := New(t.Context(), WithSetting("wal_level", "lemon"))
	if err == nil {
		c.Close()
		t.Fatal("started")
	}
	if !strings.Contains(err.Error(), "lemon") {
		t.Errorf("the error does not tell the server's log: %v", err)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	c := Start(t)
	if err := c.Stop(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", c.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := c.Start(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("got %v", err)
	}
	l.Close()
	if err := c.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStopAndStart(t *testing.T) {
	t.Parallel()
	c := Start(t)
	port := c.Port()
	Exec(t, c.DSN(), "CREATE TABLE t (id int)")
	for n, mode := range []Mode{Fast, Immediate, Smart} {
		Exec(t, c.DSN(), "INSERT INTO t VALUES (1)")
		if err := c.Stop(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := pgconn.Connect(t.Context(), c.DSN()); err == nil {
			t.Fatalf("%s: the server still takes connections", mode)
		}
		if want := fmt.Sprintf("received %s shutdown request", mode); !strings.Contains(c.Log(), want) {
			t.Errorf("not in the log: %s", want)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := Query(t, c.DSN(), "SELECT count(*) FROM t"); got != fmt.Sprint(n+1) || c.Port() != port {
			t.Errorf("after a %s stop there are %s rows, port %d is %d", mode, got, port, c.Port())
		}
	}
	if err := c.Start(t.Context()); err == nil {
		t.Error("a running server started")
	}
}

func TestStopHeedsItsContext(t *testing.T) {
	t.Parallel()
	c := Start(t)
	conn := Connect(t, c.DSN()).PgConn()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Stop(ctx, Smart); !errors.Is(err, context.Canceled) {
		t.Errorf("a smart stop while %d is connected: %v", conn.PID(), err)
	}
	if err := c.Restart(t.Context(), Fast); err != nil {
		t.Error(err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	c := Start(t)
	conn := Connect(t, c.DSN()).PgConn()
	Exec(t, c.DSN(), "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")
	pids := serverProcesses(t, c)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("process %d is alive", pid)
		}
	}
	if err := conn.Exec(t.Context(), "SELECT").Close(); err == nil {
		t.Error("the connection is alive")
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := Query(t, c.DSN(), "SELECT count(*) FROM t"); got != "2" {
		t.Errorf("after recovery there are %s rows", got)
	}
	if !strings.Contains(c.Log(), "automatic recovery in progress") {
		t.Error("it did not recover: it had not crashed")
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	c := Start(t)
	conn := Connect(t, c.DSN()).PgConn()
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range serverProcesses(t, c) {
		if state(t, pid) != 'T' {
			t.Errorf("process %d is in state %c", pid, state(t, pid))
		}
	}
	answer := make(chan error, 1)
	go func() { answer <- conn.Exec(context.Background(), "SELECT").Close() }()
	select {
	case err := <-answer:
		t.Fatalf("a paused server answered: %v", err)
	case <-time.After(100 * time.Millisecond): // nothing can be waited for: silence is the point
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if err := c.Pause(); err != nil { // and Close has to cope
		t.Fatal(err)
	}
}

func serverProcesses(t *testing.T, c *Cluster) []int {
	t.Helper()
	children, err := c.server.children()
	if err != nil || len(children) < 3 {
		t.Fatalf("children %v, %v", children, err)
	}
	pids := []int{c.server.postmaster.Pid}
	for _, p := range children {
		pids = append(pids, p.pid)
	}
	return pids
}

// state is a process's state as ps shows it, or 0.
func state(t *testing.T, pid int) byte {
	t.Helper()
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.pid == pid {
			return p.state
		}
	}
	return 0
}

// alive is false for one that nobody has waited for.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	s := state(t, pid)
	return s != 0 && s != 'Z'
}
