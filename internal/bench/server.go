package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgtest"
)

// server is the throwaway server that sends.
type server struct {
	*pgtest.Cluster
	conn       *pgconn.PgConn // for SQL
	postmaster int
}

// startServer starts a server that nothing distracts: no vacuum, no checkpoint, no waiting for disks.
func startServer(ctx context.Context) (*server, error) {
	c, err := pgtest.New(ctx,
		pgtest.WithTLS(),
		pgtest.WithHBA("host all,replication all 127.0.0.1/32 trust"), // TCP without TLS, too
		pgtest.WithSetting("shared_buffers", "512MB"),
		pgtest.WithSetting("synchronous_commit", "off"),
		pgtest.WithSetting("full_page_writes", "off"),
		pgtest.WithSetting("autovacuum", "off"),
		pgtest.WithSetting("checkpoint_timeout", "1d"),
		pgtest.WithSetting("max_wal_size", "100GB"),
	)
	if err != nil {
		return nil, err
	}
	s := &server{Cluster: c}
	if s.conn, err = pgconn.Connect(ctx, c.SocketDSN()); err == nil {
		s.postmaster, err = postmasterPID(c.DataDir())
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *server) close() {
	if s.conn != nil {
		s.conn.Close(context.Background())
	}
	s.Cluster.Close()
}

// The ways to a server.
const (
	tcp  = "tcp"
	unix = "unix"
	tls  = "tls"
)

// dsn is the connection string by which contenders connect.
func (s *server) dsn(transport string) string {
	switch transport {
	case unix:
		return s.SocketDSN()
	case tls:
		return s.DSN()
	}
	return s.DSN("sslmode=disable")
}

func (s *server) bin(program string) string { return s.Bin(program) }

func (s *server) exec(ctx context.Context, sql ...string) error {
	for _, q := range sql {
		if err := s.conn.Exec(ctx, q).Close(); err != nil {
			return fmt.Errorf("%.60s…: %w", q, err)
		}
	}
	return nil
}

func (s *server) query(ctx context.Context, sql string) (string, error) {
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	return string(results[0].Rows[0][0]), nil
}

func postmasterPID(dataDir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(first)
}

// cpu is the CPU time of all processes that the server has had for clients and that have ended, once there are no more of
// its processes than before. It is what proc(5) calls cutime and cstime, in ticks of 10 ms; 0 without /proc.
func (s *server) cpu(children int) (time.Duration, error) {
	for deadline := time.Now().Add(time.Minute); s.children() > children; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the server's processes for the last contender do not end")
		}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.postmaster))
	if err != nil {
		return 0, nil
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err := strconv.Atoi(f[13])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(f[14])
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

// children counts the server's processes.
func (s *server) children() int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.postmaster, s.postmaster))
	return len(strings.Fields(string(b)))
}
