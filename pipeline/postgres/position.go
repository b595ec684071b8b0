package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// What Open can fail with, beside the server's errors.
var (
	// ErrSource: the stored position belongs to another cluster, database or slot.
	ErrSource = errors.New("the position stored in the target belongs to another source")

	// ErrBusy: another process has the sink of that name open, and did not end within 30 seconds.
	ErrBusy = errors.New("another process applies changes to the target")

	// ErrTargetLost: the target has an older position than the sink has stored there, as after a fail-over to a standby that lagged
	// behind. What lies between was acknowledged, so that the stream does not have it any more. It is an error of Write.
	ErrTargetLost = errors.New("the target has lost changes that were applied")
)

// As PostgreSQL's own subscriptions have it (libpqrcv_connect and InitializeLogRepWorker): values come as a publisher writes
// them. And what Write has written is acknowledged, so that a commit must be on the disk.
const settings = "SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET lock_timeout = '30s'; " +
	"SELECT set_config('synchronous_commit', 'local', false) WHERE current_setting('synchronous_commit') = 'off'"

const createPositions = `CREATE TABLE walchan_position (
	name text PRIMARY KEY,
	system_id text NOT NULL,
	database text NOT NULL,
	slot text NOT NULL,
	commit_lsn pg_lsn NOT NULL,
	ordinal bigint NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT now()
)`

const storePosition = "UPDATE walchan_position SET commit_lsn = $2::pg_lsn, ordinal = $3::bigint, updated_at = now() WHERE name = $1::text"

// connect makes the connection, has it hold the lock, and reads the position.
//
// The lock comes first: a session whose client was killed may still commit its last transaction, and has the lock until it
// is done.
func (s *Sink) connect(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, s.connString)
	if err != nil {
		return fmt.Errorf("connect to the target: %w", err) // pgconn's text has no password
	}
	s.plans = map[*walchan.Relation]*plan{}
	position, err := s.begin(ctx, conn)
	if err == nil && position.Compare(s.position) < 0 {
		err = backoff.Permanent(fmt.Errorf("%w: it is at %v, and was at %v; copy the tables again", ErrTargetLost, position, s.position))
	}
	if err != nil {
		conn.Close(ctx)
		return err
	}
	s.conn, s.position = conn, position
	return nil
}

func (s *Sink) begin(ctx context.Context, conn *pgconn.PgConn) (p walchan.Position, err error) {
	if err := conn.Exec(ctx, settings).Close(); err != nil {
		return p, fmt.Errorf("prepare the session in the target: %w", err)
	}
	h := fnv.New64a()
	h.Write([]byte("walchan_position " + s.cfg.name))
	lock := strconv.FormatInt(int64(h.Sum64()), 10)
	if _, err := query(ctx, conn, "SELECT pg_advisory_lock($1::bigint)", lock); state(err) == "55P03" { // lock_not_available
		return p, fmt.Errorf("%w, under the name %q; end it, or use another name (WithName)", ErrBusy, s.cfg.name)
	} else if err != nil {
		return p, fmt.Errorf("lock the position in the target: %w", err)
	}
	if err := conn.Exec(ctx, "RESET lock_timeout").Close(); err != nil {
		return p, fmt.Errorf("prepare the session in the target: %w", err)
	}
	if rows, err := query(ctx, conn, "SELECT 1 WHERE to_regclass('walchan_position') IS NOT NULL"); err != nil {
		return p, fmt.Errorf("look for the position in the target: %w", err)
	} else if len(rows) == 0 {
		// Sinks of other names may do the same now.
		if err := conn.Exec(ctx, createPositions).Close(); err != nil && state(err) != "42P07" && state(err) != "23505" {
			return p, fmt.Errorf("create the table walchan_position in the target: %w", err)
		}
	}
	return s.load(ctx, conn)
}

// load reads the position, and begins with none if there is none.
func (s *Sink) load(ctx context.Context, conn *pgconn.PgConn) (p walchan.Position, err error) {
	_, err = query(ctx, conn, `INSERT INTO walchan_position (name, system_id, database, slot, commit_lsn, ordinal)
		VALUES ($1, $2, $3, $4, '0/0', 0) ON CONFLICT DO NOTHING`, s.cfg.name, s.source.SystemID, s.source.Database, s.source.Slot)
	if err != nil {
		return p, fmt.Errorf("write the position in the target: %w", err)
	}
	rows, err := query(ctx, conn, `SELECT system_id, database, slot, commit_lsn::text, ordinal::text FROM walchan_position WHERE name = $1`, s.cfg.name)
	if err != nil || len(rows) != 1 {
		return p, fmt.Errorf("read the position in the target: %w", err)
	}
	r := rows[0]
	if stored := (walchan.Source{SystemID: r[0], Database: r[1], Slot: r[2]}); stored != s.source {
		return p, backoff.Permanent(fmt.Errorf("%w: %s, and not to %s; use another name (WithName), or delete the row %q of walchan_position if the target is a copy of the new source",
			ErrSource, describe(stored), describe(s.source), s.cfg.name))
	}
	if p.Commit, err = walchan.ParseLSN(r[3]); err != nil {
		return p, fmt.Errorf("read the position in the target: %w", err)
	}
	ordinal, err := strconv.ParseUint(r[4], 10, 32)
	p.Ordinal = uint32(ordinal)
	return p, err
}

func describe(s walchan.Source) string {
	return fmt.Sprintf("slot %q of database %q in cluster %s", s.Slot, s.Database, s.SystemID)
}

// query runs one statement and returns its rows as text, NULL as "".
func query(ctx context.Context, conn *pgconn.PgConn, sql string, args ...string) (rows [][]string, err error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	result := conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	for _, r := range result.Rows {
		row := make([]string, len(r))
		for i, v := range r {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
