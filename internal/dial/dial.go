// Package dial reads connection strings, and says why a server cannot be reached.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// timeout is for a connection attempt, unless the connection string has a connect_timeout.
const timeout = 30 * time.Second

// Parse is pgconn.ParseConfig with errors that cannot show a password, which pgconn does not promise for a string
// that is malformed: it quotes what it takes for the harmless parts.
func Parse(connString string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return nil, errors.New("connection string: " + parseProblem(err))
	}
	// In a URL whose password has an unescaped @ or / part of it is taken for the host or the database, which are named in
	// errors.
	hosts := cfg.Host
	for _, f := range cfg.Fallbacks {
		hosts += " " + f.Host
	}
	isURL := strings.HasPrefix(connString, "postgres://") || strings.HasPrefix(connString, "postgresql://")
	if isURL && strings.Contains(hosts+cfg.Database, "@") {
		return nil, errors.New("connection string: @ in the host or database name; percent-encode the password's special characters (@ is %40, / is %2F)")
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = timeout
	}
	// Names are compared with ours, also on ordinary connections, whatever the database's encoding is.
	maps.DeleteFunc(cfg.RuntimeParams, func(name, _ string) bool { return strings.EqualFold(name, "client_encoding") })
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "walchan"
	}
	return cfg, nil
}

// parseProblem says in words of our own what pgconn.ParseConfig complains of.
func parseProblem(err error) string {
	if file := (*fs.PathError)(nil); errors.As(err, &file) {
		return file.Error() // a certificate, key or service file
	}
	for _, problem := range []string{"sslmode is invalid", "invalid port", "port numbers", "failed to parse as URL", "failed to parse as keyword/value",
		"invalid connect_timeout", "failed to read service", "failed to configure TLS", "target_session_attrs", "channel_binding", "require_auth"} {
		if strings.Contains(err.Error(), problem) {
			return problem + "; in a URL special characters of the password are percent-encoded; see \"Connection Strings\" in the PostgreSQL documentation"
		}
	}
	return "it cannot be parsed; see \"Connection Strings\" in the PostgreSQL documentation"
}

// target names a server and the user, without a password.
func target(cfg *pgconn.Config) string {
	hosts := []string{fmt.Sprintf("%s:%d", cfg.Host, cfg.Port)}
	for _, f := range cfg.Fallbacks {
		if h := fmt.Sprintf("%s:%d", f.Host, f.Port); h != hosts[len(hosts)-1] {
			hosts = append(hosts, h)
		}
	}
	what := strings.Join(hosts, ",")
	if cfg.Database != "" { // else it is called as the user is
		what += fmt.Sprintf(", database %q", cfg.Database)
	}
	return what + fmt.Sprintf(", user %q", cfg.User)
}

// Error translates the failure to connect. pgx tries all addresses of all hosts, and some of them with and without TLS
// (sslmode=prefer): the most telling of these failures is what the error is.
func Error(err error, cfg *pgconn.Config) error {
	what := "connect to " + target(cfg)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("walchan: %s: %w", what, context.Canceled)
	}
	var outer *pgconn.ConnectError
	if errors.As(err, &outer) {
		err = outer.Unwrap() // it holds the configuration with the password
	}
	var chosen *walerr.Error
	telling := -1
	for _, attempt := range causes.Split(err) {
		e, t := attemptError(what, attempt, cfg)
		if t >= telling {
			chosen, telling = e, t
		}
	}
	chosen.Err = err
	return chosen
}

// attemptError translates the failure of one attempt, and says how telling it is.
func attemptError(what string, err error, cfg *pgconn.Config) (e *walerr.Error, telling int) {
	e = pgfail.Failed(what, err)
	state := sqlstate.Of(err)
	switch {
	case state != "":
		refusedByServer(e, sqlstate.Error(err), cfg)
	case isTLSError(err):
		e.Kind, e.Advice = walerr.TLS, "check sslmode and sslrootcert, and the server's certificate"
	case isRefusedTLS(err):
		// With sslmode=prefer the next attempt, without, has more to say.
		e.Kind, e.Advice = walerr.TLS, "set ssl = on and a certificate on the server, or connect with sslmode=disable"
		return e, 0
	default:
		e.Advice = unreachableAdvice(err)
		if !isReached(err) && !severalHosts(cfg) {
			return e, 1 // "localhost" may be two addresses, of which the server listens on one
		}
	}
	if pgfail.IsPermanent(e) {
		return e, 2
	}
	// The server may have begun to start or stop between two attempts, and the other host may come back.
	return e, 3
}

// refusedByServer gives an error of the server during start-up the right kind and advice.
func refusedByServer(e *walerr.Error, pg *pgconn.PgError, cfg *pgconn.Config) {
	replication := cfg.RuntimeParams["replication"] != ""
	switch state := pg.Code; {
	case state == sqlstate.InvalidPassword:
		e.Advice = "check user and password"
	case e.Kind == walerr.Authentication && pg.Routine == "InitializeSessionUserId":
		e.Advice = fmt.Sprintf("check the user, or CREATE ROLE %s LOGIN REPLICATION", pgsql.Quoted(cfg.User))
	case e.Kind == walerr.Authentication:
		e.Advice = fmt.Sprintf("let the user in with a line of pg_hba.conf like: host %s %s <client's address> scram-sha-256", pgsql.Quoted(cfg.Database), pgsql.Quoted(cfg.User))
		if cfg.TLSConfig == nil {
			e.Advice += ", or connect with sslmode=require if the server demands TLS"
		}
	case state == sqlstate.NoPrivilege && pg.Routine == "CheckMyDatabase":
		e.Advice = fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", pgsql.Quoted(cfg.Database), pgsql.Quoted(cfg.User))
	case state == sqlstate.NoPrivilege && replication:
		e.Advice = fmt.Sprintf("ALTER ROLE %s REPLICATION, or grant the role that a managed service has for it", pgsql.Quoted(cfg.User))
	case state == sqlstate.InvalidCatalog:
		e.Advice = "check the database name"
	case state == sqlstate.TooManyConns && replication:
		e.Advice = "raise max_wal_senders, or end another replication client (see pg_stat_replication)"
	case state == sqlstate.ProtocolViolation:
		e.Advice = "connect to PostgreSQL itself: a pooler between may not do replication"
	case state == sqlstate.UndefinedObject, state == sqlstate.InvalidParameter, state == sqlstate.CantChangeParameter:
		e.Kind, e.Advice = walerr.Options, "check the settings in the connection string"
	}
}

func unreachableAdvice(err error) string {
	var dns *net.DNSError
	var notPreferred *pgconn.NotPreferredError
	switch {
	case errors.As(err, &dns):
		return "check the host name"
	case errors.As(err, &notPreferred):
		return "check the hosts and target_session_attrs"
	case pgconn.Timeout(err):
		return "check host and port, the network and its firewalls"
	case errors.Is(err, fs.ErrNotExist):
		return "check that the server runs and has its socket there (unix_socket_directories)"
	}
	return "check host and port, and that the server runs and listens there (listen_addresses)"
}

// isReached says whether something has answered.
func isReached(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return !errors.As(err, &dns) && !(errors.As(err, &op) && op.Op == "dial") && !pgconn.Timeout(err)
}

func severalHosts(cfg *pgconn.Config) bool {
	for _, f := range cfg.Fallbacks {
		if f.Host != cfg.Host || f.Port != cfg.Port {
			return true
		}
	}
	return false
}

// isTLSError says whether one side has refused the other's certificate or version.
func isTLSError(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		authority    x509.UnknownAuthorityError
		certificate  x509.CertificateInvalidError
		host         x509.HostnameError
		op           *net.OpError
	)
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &authority) ||
		errors.As(err, &certificate) || errors.As(err, &host) || errors.As(err, &op) && op.Op == "remote error" // an alert
}

// isRefusedTLS says whether the server does no TLS.
func isRefusedTLS(err error) bool { return strings.HasSuffix(err.Error(), causes.RefusedTLS) }

// IsStopping asks, over an ordinary connection that it makes for that, whether the server is stopping.
func IsStopping(ctx context.Context, cfg *pgconn.Config) bool {
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err == nil {
		conn.Close(ctx)
	}
	return sqlstate.Of(err) == sqlstate.CannotConnectNow
}
