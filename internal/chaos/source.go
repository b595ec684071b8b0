package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgtest"
)

// source is the servers whose changes the consumers receive, and those who write there.
type source struct {
	cluster *pgtest.Cluster // the primary
	standby *pgtest.Cluster
	servers []string // data directories of all that there were
	proxies []*proxy // by slot
	traffic traffic
	ddl     *writer
}

// synchronises says whether standbys keep copies of slots.
func (s *source) synchronises() bool { return s.cluster.Version() >= 17 }

// lead has the consumers connect to a server.
func (s *source) lead(to *pgtest.Cluster) {
	for _, p := range s.proxies {
		p.lead(addressOf(to))
	}
}

// heal ends the faults of the networks to the server.
func (s *source) heal() {
	for _, p := range s.proxies {
		p.heal()
	}
}

// stopAutovacuum returns when the server makes no more transactions by itself. Such a one after the last marker would be in the reference
// of a plugin that shows empty transactions, and not in what its consumer has received.
func (s *source) stopAutovacuum(ctx context.Context) error {
	if err := set(ctx, s.cluster, "autovacuum", "off"); err != nil {
		return err
	}
	return until(ctx, s.cluster, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('autovacuum worker', 'autovacuum launcher')")
}

// query asks the primary, directly.
func (s *source) query(ctx context.Context, sql string) (string, error) {
	return query(ctx, s.cluster, sql)
}

func query(ctx context.Context, server *pgtest.Cluster, sql string) (string, error) {
	return queryDSN(ctx, server.SocketDSN(), sql)
}

func queryDSN(ctx context.Context, dsn, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 || len(results[0].Rows) == 0 {
		return "", err
	}
	return string(results[0].Rows[0][0]), nil
}

// until waits for a query to return true.
func until(ctx context.Context, server *pgtest.Cluster, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	for {
		is, err := query(ctx, server, sql)
		if err != nil || is == "t" {
			return err
		}
		if sleep(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%s: %w", sql, ctx.Err())
		}
	}
}

// set changes a setting of a server.
func set(ctx context.Context, server *pgtest.Cluster, name, value string) error {
	for _, sql := range []string{"ALTER SYSTEM SET " + name + " = '" + value + "'", "SELECT pg_reload_conf()"} {
		if _, err := query(ctx, server, sql); err != nil {
			return err
		}
	}
	return nil
}

func addressOf(server *pgtest.Cluster) string { return fmt.Sprintf("127.0.0.1:%d", server.Port()) }
