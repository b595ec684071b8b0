package dial

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

// Prepare returns the configuration of a connection. It reads the connection string anew (pgpass, certificates), and lets the user
// change the result.
func Prepare(ctx context.Context, connString string, change func(context.Context, *pgconn.Config) error) (*pgconn.Config, error) {
	cfg, err := Parse(connString)
	if err != nil {
		return nil, fmt.Errorf("walchan: %w", err) // it was right once: a file is missing, which may come back
	}
	if err := change(ctx, cfg); err != nil {
		return nil, fmt.Errorf("walchan: prepare the connection: %w", err)
	}
	return cfg, nil
}

// LogNotices logs the notices of the server, unless the user has them.
func LogNotices(ctx context.Context, cfg *pgconn.Config, log *slog.Logger) {
	if cfg.OnNotice != nil {
		return
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		level := slog.LevelInfo
		if n.SeverityUnlocalized == "WARNING" {
			level = slog.LevelWarn
		}
		log.Log(ctx, level, "notice from the server", "severity", n.Severity, "code", n.Code, "message", n.Message)
	}
}

// Follow notes how a connection with cfg reaches its server. Call reached once it is made.
func Follow(cfg *pgconn.Config) (reached func() Reached) {
	before := cfg.Copy()
	var last atomic.Pointer[string] // pgx dials to cancel a statement, too, at any time
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		last.Store(&address) // the last one is the one that was reached
		return before.DialFunc(ctx, network, address)
	}
	return func() Reached { return Reached{before, *last.Load()} }
}
