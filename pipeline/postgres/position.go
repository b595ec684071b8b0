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

// What a sink can fail with, beside the server's errors.
var (
	// ErrBusy: another process has the sink of that name, and did not end within 30 seconds.
	ErrBusy = errors.New("another process applies changes to the target")

	// ErrTargetLost: the target has an older checkpoint than the sink has stored there, as after a fail-over to a standby that lagged
	// behind, or somebody else has changed it. What lies between was acknowledged, so that the stream does not have it any more.
	//
	// The process that sees it ends. Every later one gets walchan.ErrSlotMoved from Subscribe, because the slot is ahead of what is
	// stored. errors.Is finds that in this error, too.
	ErrTargetLost = errors.New("the target has lost changes that were applied")
)

// As PostgreSQL's own subscriptions have it (libpqrcv_connect and InitializeLogRepWorker): values come as a publisher writes
// them. And what Write has written is acknowledged, so that a commit must be on the disk.
const settings = "SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET lock_timeout = '30s'; " +
	"SELECT set_config('synchronous_commit', 'local', false) WHERE current_setting('synchronous_commit') = 'off'"

// The columns commit_lsn and ordinal are for people, and for what an older version has stored.
const (
	createPositions = `CREATE TABLE walchan_position (
	name text PRIMARY KEY,
	system_id text NOT NULL,
	database text NOT NULL,
	slot text NOT NULL,
	commit_lsn pg_lsn NOT NULL,
	ordinal bigint NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT now(),
	checkpoint text
)`
	describePositions = `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c AND attname = 'checkpoint' AND NOT attisdropped)
	FROM to_regclass('walchan_position') c WHERE c IS NOT NULL`
	upgradePositions = "ALTER TABLE walchan_position ADD COLUMN IF NOT EXISTS checkpoint text"
	readPosition     = `SELECT system_id, database, slot, commit_lsn::text, ordinal::text, coalesce(checkpoint, '') FROM walchan_position WHERE name = $1`
)

// prepare makes or upgrades the table. The connection is closed again: a process that waits for its slot needs none.
func (s *Sink) prepare(ctx context.Context) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := query(ctx, conn, describePositions)
	switch {
	case err != nil:
		return fmt.Errorf("look for the table walchan_position in the target: %w", err)
	case len(rows) == 0:
		// Sinks of other names may do the same now.
		if err := conn.Exec(ctx, createPositions).Close(); err != nil && state(err) != "42P07" && state(err) != "23505" {
			return fmt.Errorf("create the table walchan_position in the target: %w", err)
		}
	case rows[0][0] != "t":
		if err := conn.Exec(ctx, upgradePositions).Close(); err != nil {
			return fmt.Errorf("add the column checkpoint to the table walchan_position in the target: %w", err)
		}
	}
	return nil
}

func (s *Sink) dial(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := pgconn.Connect(ctx, s.connString)
	if err != nil {
		return nil, fmt.Errorf("connect to the target: %w", err) // pgconn's text has no password
	}
	if err := conn.Exec(ctx, settings).Close(); err != nil {
		conn.Close(ctx)
		return nil, fmt.Errorf("prepare the session in the target: %w", err)
	}
	return conn, nil
}

// connect makes the connection, has it hold the lock, and reads what is stored.
//
// The lock comes first: a session whose client was killed may still commit its last transaction, and has the lock until it
// is done.
func (s *Sink) connect(ctx context.Context) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	if err = s.lock(ctx, conn); err == nil {
		var p place
		if p, err = s.read(ctx, conn); err == nil {
			err = s.take(p)
		}
	}
	if err != nil {
		conn.Close(ctx)
		return err
	}
	s.conn, s.plans = conn, map[*walchan.Relation]*plan{}
	return nil
}

func (s *Sink) lock(ctx context.Context, conn *pgconn.PgConn) error {
	h := fnv.New64a()
	h.Write([]byte("walchan_position " + s.cfg.name))
	key := strconv.FormatInt(int64(h.Sum64()), 10)
	if _, err := query(ctx, conn, "SELECT pg_advisory_lock($1::bigint)", key); state(err) == "55P03" { // lock_not_available
		return fmt.Errorf("%w, under the name %q; end it, or use another name (WithName)", ErrBusy, s.cfg.name)
	} else if err != nil {
		return fmt.Errorf("lock the checkpoint in the target: %w", err)
	}
	if err := conn.Exec(ctx, "RESET lock_timeout").Close(); err != nil {
		return fmt.Errorf("prepare the session in the target: %w", err)
	}
	return nil
}

// read reads what is stored.
func (s *Sink) read(ctx context.Context, conn *pgconn.PgConn) (place, error) {
	rows, err := query(ctx, conn, readPosition, s.cfg.name)
	if err != nil {
		return place{}, fmt.Errorf("read the checkpoint in the target: %w", err)
	}
	if len(rows) == 0 {
		return place{}, nil
	}
	p, err := parsePlace(rows[0])
	if err != nil {
		return p, backoff.Permanent(fmt.Errorf("read the checkpoint in the target: %w", err))
	}
	return p, nil
}

// take compares what the target has with what this sink has stored last. It may have more: the answer to the last COMMIT was
// lost.
func (s *Sink) take(p place) error {
	if n, same := p.checkpoint.Compare(s.place.checkpoint); s.known && (n < 0 || !same) {
		return targetLost(fmt.Sprintf("it is at %v, and was at %v; copy the tables again", p.checkpoint.Position(), s.place.checkpoint.Position()))
	}
	s.place, s.known = p, true
	return nil
}

func targetLost(what string) error {
	return backoff.Permanent(lost{fmt.Errorf("%w: %s", ErrTargetLost, what)})
}

// lost is walchan.ErrSlotMoved, too.
type lost struct{ error }

func (l lost) Unwrap() []error { return []error{l.error, walchan.ErrSlotMoved} }

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
