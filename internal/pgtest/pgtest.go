// Package pgtest makes throwaway PostgreSQL clusters for tests, examples and benchmarks. They are real servers, of the
// PostgreSQL (14 or newer) that is installed on the machine.
//
// Most tests need a database and not a server. They share one cluster a test binary, and get a fresh database each:
//
//	db := pgtest.Database(t)
//	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
//	stream, err := walchan.Subscribe(ctx, db.DSN(), walchan.WithSlot(db.Name), …)
//
// db.Name is valid as the name of a slot and belongs to no other test: slots are the cluster's, not the database's. When
// the test ends, the database goes, with the connections, slots and prepared transactions that are left in it.
//
// Tests that stop, kill or configure a server need one of their own. It takes a fraction of a second to make:
//
//	c := pgtest.Start(t, pgtest.WithSetting("wal_sender_timeout", "1s"))
//	pgtest.Exec(t, c.DSN(), "CREATE TABLE t (id int PRIMARY KEY)")
//	c.Stop(ctx, pgtest.Fast); c.Start(ctx); c.Kill(); c.Pause(); c.Resume(); s := c.Standby(t); s.Promote(ctx)
//
// For servers with two histories a stopped one is copied, and put back as a volume's snapshot is, or started a second time:
//
//	p := c.Copy(t); c.PutBack(t, p, pgtest.Everything); p.Twin(t); p.Standby(t, c); p.Recover(t, c)
//
// Without a testing.TB, as in examples and benchmarks, [New] and [Cluster.Close] do the same.
//
// No server outlives the process that made it, however that ends: see watcher. Programs are looked for in the directory
// named by WALCHAN_PGBIN, then in PATH and the usual places: see [ErrNoPostgres].
//
// For leak checks: each running cluster has one goroutine, pgtest.(*server).wait, and the shared cluster's never ends.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Cluster is a PostgreSQL server and its data directory. Its superuser is "postgres", its database "postgres". The
// methods that start and stop the server must not be called at the same time; the others may be, at any time.
type Cluster struct {
	programs programs
	options  options
	dir      string // server.log, sockets, data/; removed with all it holds by Close
	port     int    // kept by a restart
	watcher  *watcher
	server   *server // nil while stopped
}

// New makes a cluster and starts it. ctx bounds that, not the cluster's life, which ends with Close or the process.
func New(ctx context.Context, opts ...Option) (*Cluster, error) {
	c, err := build(options{}.with(opts), func(c *Cluster) error {
		if err := c.initdb(ctx); err != nil || !c.options.tls {
			return err
		}
		return c.writeCertificates()
	})
	if err != nil {
		return nil, err
	}
	err = c.startOnFreePort(ctx)
	if err == nil && c.options.password != "" {
		err = execSQL(ctx, c.SocketDSN(), "ALTER ROLE postgres PASSWORD "+quoteLiteral(c.options.password))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Start is New for tests: an error ends the test, the test's end closes the cluster, and if the test failed the end of the
// server's log is part of its output.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c, err := New(t.Context(), opts...)
	return c.owned(t, err)
}

// owned hands c to t.
func (c *Cluster) owned(t testing.TB, err error) *Cluster {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of the server on port %d:\n%s", c.port, lastLines(c.Log(), 60))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// build makes a cluster's directory and has fill put a data directory into it.
func build(o options, fill func(*Cluster) error) (*Cluster, error) {
	if err := supported(); err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	p, err := findPrograms()
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	c := &Cluster{programs: p, options: o}
	if c.dir, err = makeDir(o.dir); err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	if c.watcher, err = watch(c.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: %w", err), os.RemoveAll(c.dir))
	}
	if err := fill(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close stops the server at once (immediate shutdown) and removes the cluster. Safe to call again.
func (c *Cluster) Close() error {
	var err error
	if c.server != nil {
		err = errors.Join(c.Resume(), c.Stop(context.Background(), Immediate))
	}
	return errors.Join(err, c.watcher.close())
}

// DSN is a connection string for TCP on 127.0.0.1, in keyword/value form. Further parameters ("dbname=x",
// "application_name=y") are appended and win over the defaults; so may be done to the result, after a space.
//
// With WithTLS it says sslmode=verify-full and names the CA's certificate, otherwise sslmode=disable.
func (c *Cluster) DSN(params ...string) string { return c.dsn("127.0.0.1", params) }

// SocketDSN is DSN for the Unix socket. It needs no password and has no TLS, whatever the options.
func (c *Cluster) SocketDSN(params ...string) string { return c.dsn(c.dir, params) }

func (c *Cluster) dsn(host string, params []string) string {
	s := fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", quoteParam(host), c.port)
	if tcp := host != c.dir; tcp && c.options.tls {
		s += " sslmode=verify-full sslrootcert=" + quoteParam(c.CAFile())
	} else {
		s += " sslmode=disable"
	}
	if c.options.password != "" {
		s += " password=" + quoteParam(c.options.password)
	}
	return strings.Join(append([]string{s}, params...), " ")
}

// Port is the TCP port on 127.0.0.1. It stays the same over Stop and Start.
func (c *Cluster) Port() int { return c.port }

// Version is the server's major version.
func (c *Cluster) Version() int { return c.programs.version }

// Bin is the path of one of PostgreSQL's programs, such as "pg_recvlogical".
func (c *Cluster) Bin(name string) string { return c.programs.path(name) }

// DataDir is the server's data directory.
func (c *Cluster) DataDir() string { return filepath.Join(c.dir, "data") }

// Log is what the server has logged so far, over all its starts.
func (c *Cluster) Log() string {
	b, err := os.ReadFile(c.logFile())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (c *Cluster) logFile() string { return filepath.Join(c.dir, "server.log") }

// lastLines returns the last n lines of s.
func lastLines(s string, n int) string {
	lines := strings.SplitAfter(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// quoteParam quotes a value of a connection string.
func quoteParam(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// quoteLiteral quotes an SQL string without backslashes.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
