// Package admin does what an operator does: it makes slots and publications, removes them, and asks a server who it is.
//
// Nothing here makes a statement of an application fail, unless the caller asks for it (PublicationSpec.AllowUnkeyed). Errors have a kind of
// package walerr.
package admin

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

// Option changes what Connect does.
type Option func(*config)

type config struct {
	connString string
	physical   bool
	connect    func(context.Context, *pgconn.Config) error
	log        *slog.Logger
}

// WithConnect calls f before each connection with a copy of its configuration. f may change it: a password that rotates, a DialFunc, an
// OnNotice for the server's notices, which are logged otherwise. An error of f is that of the command.
func WithConnect(f func(context.Context, *pgconn.Config) error) Option {
	return func(c *config) { c.connect = f }
}

// WithLogger sets where the Conn logs, overriding slog.Default(). It logs neither row data nor secrets.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.log = l } }

// WithPhysical connects to the cluster and to no database. A line of pg_hba.conf for "replication" allows that, also to a role that may not
// connect to a database. Slots, EnsurePublication, DropPublication, AdvanceSlot and logical slots are then refused (walerr.Options).
func WithPhysical() Option { return func(c *config) { c.physical = true } }

// Conn runs commands on one server: one at a time, for one goroutine. Slots and the methods for publications use an ordinary connection, for which a
// role needs no privilege. All others use a replication connection, for which it needs REPLICATION. Each is opened when the first command
// needs it. A command whose ctx ends breaks the Conn.
type Conn struct {
	config
	walsender *slots.Access  // the replication connection; nil: not opened yet
	ordinary  *pgconn.PgConn // nil: not opened yet
	server    *dial.Reached  // that of the first connection
}

// Connect connects to the server, PostgreSQL 14 or later. connString is a URL or a keyword/value string, as for pgx and libpq. Close the Conn.
func Connect(ctx context.Context, connString string, opts ...Option) (*Conn, error) {
	c := &Conn{config: config{
		connString: connString,
		connect:    func(context.Context, *pgconn.Config) error { return nil },
		log:        slog.Default(),
	}}
	for _, o := range opts {
		o(&c.config)
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	version, err := c.first(ctx)
	if err == nil {
		err = pgfail.Supported(session.ParseVersion(version), version)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// validate names everything that is wrong at once.
func (c *config) validate() error {
	var problems []string
	if _, err := dial.Parse(c.connString); err != nil {
		problems = append(problems, err.Error())
	}
	if c.connect == nil {
		problems = append(problems, "WithConnect(nil): leave it out")
	}
	if c.log == nil {
		problems = append(problems, "WithLogger(nil): use slog.New(slog.DiscardHandler) for silence")
	}
	return pgfail.Invalid(problems...)
}

// first opens the first connection. It returns the server's version.
func (c *Conn) first(ctx context.Context) (string, error) {
	if c.physical {
		w, err := c.replication(ctx)
		if err != nil {
			return "", err
		}
		_, version := w.Version()
		return version, nil
	}
	conn, err := c.database(ctx, "Connect")
	if err != nil {
		return "", err
	}
	return conn.ParameterStatus("server_version"), nil
}

// replication returns the replication connection.
func (c *Conn) replication(ctx context.Context) (*slots.Access, error) {
	if c.walsender != nil {
		return c.walsender, nil
	}
	connect := session.Dial
	if c.physical {
		connect = session.DialPhysical
	}
	conn, reached, err := open(ctx, c, connect)
	if err != nil {
		return nil, err
	}
	c.walsender = &slots.Access{Conn: conn, Reached: reached}
	return c.walsender, nil
}

// database returns the ordinary connection. what needs it.
func (c *Conn) database(ctx context.Context, what string) (*pgconn.PgConn, error) {
	if c.ordinary != nil {
		return c.ordinary, nil
	}
	if c.physical {
		return nil, needsDatabase(what)
	}
	conn, _, err := open(ctx, c, pgconn.ConnectConfig)
	c.ordinary = conn
	return conn, err
}

// open makes a connection to the server of the first one.
func open[C any](ctx context.Context, c *Conn, connect func(context.Context, *pgconn.Config) (C, error)) (conn C, reached dial.Reached, err error) {
	cfg, err := dial.Prepare(ctx, c.connString, c.connect)
	if err != nil {
		return conn, reached, err
	}
	dial.LogNotices(ctx, cfg, c.log)
	delete(cfg.RuntimeParams, "replication") // in a connection string that serves both
	if c.physical {
		cfg.RuntimeParams["replication"] = "true" // for connections beside this one, too: pg_hba.conf may let them in for nothing else
	}
	follow := dial.Follow(cfg)
	if c.server != nil {
		c.server.SameServer(cfg)
	}
	if conn, err = connect(ctx, cfg); err != nil {
		return conn, reached, dial.Error(err, cfg)
	}
	reached = follow()
	if c.server == nil {
		c.server = &reached
	}
	return conn, reached, nil
}

func needsDatabase(what string) error {
	return pgfail.Invalid(what + " needs a database: Connect without WithPhysical")
}

// Close ends the connections, and with them the temporary slots that were made on c. Its error is nil.
const closeTimeout = time.Second

func (c *Conn) Close() error {
	if c.walsender != nil {
		c.walsender.Close()
	}
	if c.ordinary != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		c.ordinary.Close(ctx)
	}
	return nil
}
