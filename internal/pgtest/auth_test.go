package pgtest

import (
	"crypto/tls"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	c := Start(t, WithTLS())
	conn := Connect(t, c.DSN()).PgConn()
	if _, ok := conn.Conn().(*tls.Conn); !ok {
		t.Errorf("the connection is a %T", conn.Conn())
	}
	Connect(t, c.DSN("host=localhost"))
	for what, dsn := range map[string]string{
		"without TLS":         c.DSN("sslmode=disable"),
		"by another CA":       c.DSN("sslrootcert=" + Start(t, WithTLS()).CAFile()),
		"by the system's CAs": c.DSN("sslrootcert=''"),
	} {
		if _, err := pgconn.Connect(t.Context(), dsn); err == nil {
			t.Errorf("%s: connected", what)
		}
	}
	Connect(t, c.SocketDSN())
}

func TestSCRAM(t *testing.T) {
	t.Parallel()
	c := Start(t, WithSCRAM(`it's \ secret`))
	Connect(t, c.DSN())
	Connect(t, c.SocketDSN("password=''"))
	for what, dsn := range map[string]string{
		"wrong password": c.DSN("password=wrong"),
		"no password":    c.DSN("password=''"),
	} {
		_, err := pgconn.Connect(t.Context(), dsn)
		if pgErr := (*pgconn.PgError)(nil); err == nil || errors.As(err, &pgErr) && pgErr.Code != "28P01" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := Query(t, c.DSN(), "SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = 'postgres'"); got != "SCRAM-SHA-256" {
		t.Errorf("the password is stored as %s", got)
	}
}

func TestHBA(t *testing.T) {
	t.Parallel()
	c := Start(t, WithHBA("host all mallory 127.0.0.1/32 reject", "host replication postgres 127.0.0.1/32 reject"))
	Exec(t, c.DSN(), "CREATE ROLE mallory LOGIN", "CREATE ROLE alice LOGIN")
	Connect(t, c.DSN("user=alice"))
	Connect(t, c.DSN("replication=database"))
	for _, param := range []string{"user=mallory", "replication=true"} {
		_, err := pgconn.Connect(t.Context(), c.DSN(param))
		if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "28000" {
			t.Errorf("%s: %v", param, err)
		}
	}
}
