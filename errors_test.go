package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/pgtest"
)

var kinds = []error{
	walchan.ErrOptions, walchan.ErrServerVersion, walchan.ErrUnreachable, walchan.ErrServerDown, walchan.ErrTooManyClients, walchan.ErrTLS,
	walchan.ErrAuthentication, walchan.ErrPermission, walchan.ErrDatabaseMissing, walchan.ErrWALLevel, walchan.ErrSlotMissing,
	walchan.ErrSlotExists, walchan.ErrSlotActive, walchan.ErrSlotMismatch, walchan.ErrSlotLost, walchan.ErrSlotInvalidated,
	walchan.ErrSlotMoved, walchan.ErrNoFreeSlot, walchan.ErrWALRemoved, walchan.ErrDiverged, walchan.ErrPublicationMissing, walchan.ErrPublication,
	walchan.ErrTableMissing, walchan.ErrTableKey, walchan.ErrTableRead, walchan.ErrPluginMissing, walchan.ErrPluginOption, walchan.ErrProtocol, walchan.ErrServer, walchan.ErrClosed,
}

// check says whether an error is of one kind and no other, in one line, about the things it must name, without a password,
// and whether it says what to do.
func check(t *testing.T, err, kind error, names ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", kind)
		return
	}
	text := err.Error()
	t.Log(text)
	for _, k := range kinds {
		if is := errors.Is(err, k); is != (k == kind) {
			t.Errorf("is %q: %v", k, is)
		}
	}
	var e *walchan.Error
	switch {
	case !errors.As(err, &e):
		t.Errorf("it is a %T", err)
	case e.Advice == "" && kind != walchan.ErrOptions:
		t.Error("it does not say what to do")
	}
	if !strings.HasPrefix(text, "walchan: ") || strings.Count(text, "walchan: ") > 1 {
		t.Error("it does not say once where it comes from")
	}
	if strings.ContainsAny(text, "\n\t") || len(text) > 500 {
		t.Error("it is not one line")
	}
	var config *pgconn.ConnectError
	var dsn *pgconn.ParseConfigError
	if strings.Contains(text, "s3cr") || errors.As(err, &config) || errors.As(err, &dsn) {
		t.Error("it shows the password, or has it in its cause")
	}
	for _, n := range names {
		if !strings.Contains(text, n) {
			t.Errorf("it does not say %q", n)
		}
	}
}

// subscribe is Subscribe for what fails.
func trySubscribe(t *testing.T, dsn string, opts ...walchan.Option) error {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), dsn, opts...)
	if err == nil {
		s.Close()
	}
	return err
}

// params make a connection string in either form.
type params map[string]string

func paramsOf(t *testing.T, c *pgtest.Cluster) params {
	cfg, err := pgconn.ParseConfig(c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	p := params{"host": cfg.Host, "port": fmt.Sprint(cfg.Port), "user": cfg.User, "password": cfg.Password, "dbname": cfg.Database, "sslmode": "disable"}
	if cfg.TLSConfig != nil {
		p["sslmode"], p["sslrootcert"] = "verify-full", c.CAFile()
	}
	return p
}

func (p params) with(keysAndValues ...string) params {
	p = maps.Clone(p)
	for kv := range slices.Chunk(keysAndValues, 2) {
		p[kv[0]] = kv[1]
	}
	return p
}

func (p params) keywords() string {
	var s string
	for k, v := range p {
		s += k + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "' "
	}
	return s
}

func (p params) url() string {
	p = maps.Clone(p)
	u := url.URL{Scheme: "postgres", User: url.UserPassword(p["user"], p["password"]), Path: "/" + p["dbname"]}
	q := url.Values{}
	for k, v := range p {
		if k != "user" && k != "password" && k != "dbname" {
			q.Set(k, v)
		}
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String()
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	const password = `s3cr:t'@/\?&%= x`
	c := pgtest.Start(t, pgtest.WithTLS(), pgtest.WithSCRAM(password), pgtest.WithHBA("hostssl all ghost 127.0.0.1/32 trust"))
	plain, other := pgtest.Start(t), pgtest.Start(t, pgtest.WithTLS())
	pgtest.Exec(t, c.DSN(), "CREATE ROLE nobody LOGIN PASSWORD 's3cret'", "CREATE ROLE outsider LOGIN REPLICATION PASSWORD 's3cret'",
		"CREATE DATABASE closed", "REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
	tls, noTLS := paramsOf(t, c), paramsOf(t, plain).with("password", "s3cret")
	silent := listen(t) // takes connections, and says nothing
	gone := listen(t)
	gone.Close()
	port := func(l net.Listener) string { return fmt.Sprint(l.Addr().(*net.TCPAddr).Port) }
	elsewhere := walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		cfg.DialFunc = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext
		return nil
	})

	if err := trySubscribe(t, tls.url(), walchan.WithSlot("s"), walchan.WithPublication("p")); !errors.Is(err, walchan.ErrPublicationMissing) {
		t.Fatalf("the right password does not connect: %v", err)
	}
	for _, tt := range []struct {
		name   string
		params params
		kind   error
		names  []string
		opts   []walchan.Option
	}{
		{"refused", tls.with("port", port(gone)), walchan.ErrUnreachable, []string{"127.0.0.1:", "refused", "check host and port"}, nil},
		{"unknown host", tls.with("host", "nosuch.invalid"), walchan.ErrUnreachable, []string{"nosuch.invalid", "check the host name"}, nil},
		{"no socket", noTLS.with("host", "/nonexistent"), walchan.ErrUnreachable, []string{"/nonexistent", "socket"}, nil},
		{"timeout", noTLS.with("port", port(silent), "connect_timeout", "1"), walchan.ErrUnreachable, []string{"127.0.0.1:" + port(silent), "timeout", "firewall"}, nil},
		{"password", tls.with("password", "s3cr3t"), walchan.ErrAuthentication, []string{`"postgres"`, "28P01", "password"}, nil},
		{"no password", tls.with("password", ""), walchan.ErrAuthentication, []string{`"postgres"`, "password"}, nil},
		{"role", tls.with("user", "ghost"), walchan.ErrAuthentication, []string{`"ghost"`, `CREATE ROLE "ghost" LOGIN REPLICATION`}, nil},
		{"no hba line", tls, walchan.ErrAuthentication, []string{"127.0.0.2", "pg_hba.conf"}, []walchan.Option{elsewhere}},
		{"database", tls.with("dbname", "nosuch"), walchan.ErrDatabaseMissing, []string{`"nosuch"`, "check the database"}, nil},
		{"no CONNECT", tls.with("user", "outsider", "password", "s3cret", "dbname", "closed"), walchan.ErrPermission, []string{`GRANT CONNECT ON DATABASE "closed" TO "outsider"`}, nil},
		{"no REPLICATION", tls.with("user", "nobody", "password", "s3cret"), walchan.ErrPermission, []string{`ALTER ROLE "nobody" REPLICATION`}, nil},
		{"TLS required", tls.with("sslmode", "disable"), walchan.ErrAuthentication, []string{"sslmode=require"}, nil},
		{"TLS refused", noTLS.with("sslmode", "require"), walchan.ErrTLS, []string{"127.0.0.1", "sslmode=disable"}, nil},
		{"wrong CA", tls.with("sslrootcert", other.CAFile()), walchan.ErrTLS, []string{"127.0.0.1", "certificate", "sslrootcert"}, nil},
		{"wrong CA, verify-ca", tls.with("sslrootcert", other.CAFile(), "sslmode", "verify-ca"), walchan.ErrTLS, []string{"certificate"}, nil},
		{"setting", tls.with("options", "-c foo=bar"), walchan.ErrOptions, []string{"foo", "connection string"}, nil},
		{"value of a setting", tls.with("options", "-c work_mem=bar"), walchan.ErrOptions, []string{"work_mem"}, nil},
		{"prefer, password", tls.with("sslmode", "prefer", "password", "s3cr3t"), walchan.ErrAuthentication, []string{"28P01"}, nil},
		{"prefer, no TLS, database", noTLS.with("sslmode", "prefer", "dbname", "nosuch"), walchan.ErrDatabaseMissing, []string{`"nosuch"`}, nil},
		{"prefer, refused", tls.with("port", port(gone), "sslmode", "prefer"), walchan.ErrUnreachable, []string{"refused"}, nil},
		{"one host refused, the other too", tls.with("port", port(gone)+","+port(gone), "host", "127.0.0.1,localhost"), walchan.ErrUnreachable, []string{"127.0.0.1", "localhost", "refused"}, nil},
		{"one host refused, the other does not let in", tls.with("port", port(gone)+","+tls["port"], "host", "127.0.0.1,localhost", "password", "s3cr3t"),
			walchan.ErrUnreachable, []string{"refused", "28P01"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, dsn := range []string{tt.params.keywords(), tt.params.url()} {
				opts := append(tt.opts, walchan.WithSlot("s"), walchan.WithPublication("p"))
				check(t, trySubscribe(t, dsn, opts...), tt.kind, tt.names...)
			}
		})
	}
	t.Run("no replication needed", func(t *testing.T) {
		if _, err := operator(t, tls.with("user", "nobody", "password", "s3cret").url()).Slots(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A connection string that cannot be parsed may have the password anywhere.
func TestMalformedConnectionStrings(t *testing.T) {
	for _, dsn := range []string{
		"postgres://app:s3cret/@db.example.com/shop",
		"postgres://app:12/s3cret@db.example.com/shop",
		"postgres://app:p@s3cret@db.example.com/shop",
		"postgres://app:%s3cret@db.example.com/shop",
		"postgres://app:s3cret@db.example.com:port/shop",
		"postgres://app:s3cret@[db.example.com/shop",
		"postgres://app:s3cret@db.example.com/shop?sslmode=maybe",
		"postgres://app:s3cret@db.example.com/shop?connect_timeout=soon",
		"postgres://db.example.com/shop?password=s3cret&sslmode=maybe",
		"postgres://app:s3cret@db.example.com/shop?sslmode=verify-full&sslrootcert=/nonexistent",
		`host=db.example.com password='it\'s s3cret sslmode=disable`,
		"host=db.example.com password=my s3cret",
		"host=db.example.com password=s3cret sslmode=maybe",
		"host=db.example.com password=s3cret port=none",
		"host=db.example.com password=s3cret service=nosuch",
		"s3cret",
	} {
		_, err := admin.Connect(t.Context(), dsn)
		for _, err := range []error{trySubscribe(t, dsn, walchan.WithSlot("s"), walchan.WithPublication("p")), err} {
			check(t, err, walchan.ErrOptions, "connection string")
		}
	}
	check(t, trySubscribe(t, "host=db.example.com sslmode=verify-full sslrootcert=/nonexistent", walchan.WithPublication("p")), walchan.ErrOptions, "/nonexistent")
}

func TestOptionErrors(t *testing.T) {
	const dsn = "host=127.0.0.1"
	p := walchan.WithPublication("p")
	for _, tt := range []struct {
		name  string
		opts  []walchan.Option
		names []string
	}{
		{"slot name", []walchan.Option{p, walchan.WithSlot("My-Slot")}, []string{`"My-Slot"`, "lower-case"}},
		{"long slot name", []walchan.Option{p, walchan.WithSlot(strings.Repeat("a", 64))}, []string{"63"}},
		{"no publication", nil, []string{"WithPublication is missing"}},
		{"publication name", []walchan.Option{walchan.WithPublication("")}, []string{`WithPublication("")`}},
		{"two at once", []walchan.Option{p, walchan.WithSlot("A"), walchan.WithBuffer(0, -1), walchan.WithCreateSlot()}, []string{`"A"`, "WithBuffer(0, -1)"}},
		{"create without a name", []walchan.Option{p, walchan.WithCreateSlot()}, []string{"WithCreateSlot needs WithSlot"}},
		{"plugin and publication", []walchan.Option{p, walchan.WithPlugin("wal2json", nil)}, []string{"WithPublication", "wal2json"}},
		{"zero byte", []walchan.Option{p, walchan.WithPluginOption("binary", "a\x00b")}, []string{`"binary"`}},
		{"intervals", []walchan.Option{p, walchan.WithStatusInterval(time.Minute), walchan.WithReceiveTimeout(time.Minute)}, []string{"WithStatusInterval(1m0s)", "WithReceiveTimeout(1m0s)"}},
		{"nil", []walchan.Option{p, walchan.WithLogger(nil), walchan.WithConnect(nil), walchan.WithRetry(nil), walchan.WithStateHook(nil)},
			[]string{"WithLogger", "WithConnect", "WithRetry", "WithStateHook"}},
	} {
		t.Run(tt.name, func(t *testing.T) { check(t, trySubscribe(t, dsn, tt.opts...), walchan.ErrOptions, tt.names...) })
	}
	t.Run("with the connection string", func(t *testing.T) {
		check(t, trySubscribe(t, "port=x", p, walchan.WithMaxUnacked(0)), walchan.ErrOptions, "connection string", "WithMaxUnacked(0)")
	})
}

// What a server of another version, or one that is starting, says to Subscribe.
func TestServerErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state func(*fakewal.State)
		kind  error
		names []string
	}{
		{"version", func(s *fakewal.State) { s.Version = "13.22" }, walchan.ErrServerVersion, []string{"13.22", "PostgreSQL 14"}},
		{"starting", refuse("57P03"), walchan.ErrServerDown, []string{"fakewal:5432", "57P03"}},
		{"full", refuse("53300"), walchan.ErrTooManyClients, []string{"fakewal:5432", "max_wal_senders"}},
		{"pooler", refuse("08P01"), walchan.ErrUnreachable, []string{"fakewal:5432", "pooler"}},
		{"unknown", refuse("XX000"), walchan.ErrServer, []string{"fakewal:5432", "XX000"}},
		{"lost slot", func(s *fakewal.State) { s.Slots["p"].WALStatus = "lost" }, walchan.ErrSlotInvalidated, []string{`"p"`, "max_slot_wal_keep_size"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				srv.Update(tt.state)
				check(t, trySubscribe(t, fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure)), tt.kind, tt.names...)
			})
		})
	}
}

func refuse(state string) func(*fakewal.State) {
	return func(s *fakewal.State) {
		s.Startup = func(*fakewal.Conn) error { return fakewal.Fatal(state, "so sagt der Server") }
	}
}

// What a stream ends with, or what it tries again after.
func TestStreamErrors(t *testing.T) {
	for _, tt := range []struct {
		state string
		kind  error
		ends  bool
	}{
		{"57P01", walchan.ErrServerDown, false},
		{"57P02", walchan.ErrServerDown, false},
		{"57P03", walchan.ErrServerDown, false},
		{"57014", walchan.ErrServer, false},
		{"53200", walchan.ErrServer, false},
		{"08006", walchan.ErrUnreachable, false},
		{"XX000", walchan.ErrServer, false},
		{"22008", walchan.ErrServer, false},
		{"55000", walchan.ErrServer, false},
		{"58P01", walchan.ErrSlotInvalidated, true},
		{"42704", walchan.ErrPublicationMissing, true},
		{"0A000", walchan.ErrPublication, true},
		{"42501", walchan.ErrPermission, true},
		{"57P04", walchan.ErrDatabaseMissing, true},
		{"28000", walchan.ErrAuthentication, true},
	} {
		t.Run(tt.state, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				errs := make(chan error, 1)
				s := subscribeTo(t, srv, walchan.WithStateHook(func(st walchan.Stats) {
					if st.Err != nil {
						errs <- st.Err
					}
				}))
				err := <-errs
				time.Sleep(time.Minute)
				if ended := s.Stats().State == walchan.StateClosed; ended != tt.ends || ended != (s.Err() != nil) {
					t.Errorf("ended: %v, %v", ended, s.Err())
				}
				if !errors.Is(err, tt.kind) || strings.Contains(err.Error(), "\n") {
					t.Errorf("it is %v", err)
				}
				if hidden := !strings.Contains(err.Error(), "so sagt"); hidden != (tt.state == "22008") || !strings.Contains(err.Error(), tt.state) {
					t.Errorf("a value is quoted, or the message hidden: %v", err)
				}
				finish(t, s)
			}, func(c *fakewal.Conn) error { return fakewal.Error(tt.state, "so sagt der Server") }, nil)
		})
	}
}

// A password file that has changed is read again; a certificate that is gone, or not yet the right one, is waited for.
func TestConnectionIsConfiguredAnew(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.WithTLS(), pgtest.WithSCRAM("one"))
	pgtest.Exec(t, c.DSN(), "CREATE PUBLICATION p FOR ALL TABLES")
	dir := t.TempDir()
	passwords, ca := filepath.Join(dir, "pgpass"), filepath.Join(dir, "ca.crt")
	cert, err := os.ReadFile(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(passwords, "*:*:*:*:one\n")
	write(ca, string(cert))
	p := paramsOf(t, c).with("passfile", passwords, "sslrootcert", ca)
	delete(p, "password")
	failed := make(chan error, 100)
	s, err := walchan.Subscribe(t.Context(), p.keywords(), walchan.WithSlot("s"), walchan.WithCreateSlot(), walchan.WithPublication("p"),
		walchan.WithLogger(slog.New(slog.DiscardHandler)), walchan.WithStateHook(func(st walchan.Stats) { failed <- st.Err }))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.Rename(ca, ca+".old"); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, c.SocketDSN(), "ALTER ROLE postgres PASSWORD 'two'")
	write(passwords, "*:*:*:*:two\n")
	pgtest.Exec(t, c.SocketDSN(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots", "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	for err := range failed {
		if err != nil && strings.Contains(err.Error(), ca) {
			break
		}
	}
	otherCert, err := os.ReadFile(pgtest.Start(t, pgtest.WithTLS()).CAFile())
	if err != nil {
		t.Fatal(err)
	}
	write(ca, string(otherCert))
	for err := range failed {
		if errors.Is(err, walchan.ErrTLS) {
			break
		}
	}
	write(ca, string(cert))
	if m := <-s.C(); m.Kind != walchan.Insert {
		t.Errorf("%v, %v", m, s.Err())
	} else {
		s.Ack(m)
	}
}
