package pgtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Exec runs each of sql on one connection, by the simple query protocol: one string may hold several statements, which are
// one transaction. A slot that is in use is waited for. An error ends the test.
func Exec(t testing.TB, dsn string, sql ...string) {
	t.Helper()
	if err := execSQL(context.WithoutCancel(t.Context()), dsn, sql...); err != nil {
		t.Fatal(err)
	}
}

// Query returns the first column of the only row as text, NULL as "". Anything else ends the test.
func Query(t testing.TB, dsn, sql string) string {
	t.Helper()
	var value string
	err := connected(context.WithoutCancel(t.Context()), dsn, func(conn *pgconn.PgConn) (err error) {
		value, err = queryOne(context.WithoutCancel(t.Context()), conn, sql)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Wait asks until the answer is true, and fails the test if it is not within a minute.
func Wait(t testing.TB, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	err := connected(ctx, dsn, func(conn *pgconn.PgConn) error {
		for {
			value, err := queryOne(ctx, conn, sql)
			if value == "t" || err != nil && !errors.Is(err, errNotOneRow) { // there may be one soon
				return err
			}
			if ctx.Err() != nil {
				return errors.Join(err, ctx.Err())
			}
			time.Sleep(5 * time.Millisecond) // between two looks at what the server has no event for
		}
	})
	if err != nil {
		t.Fatalf("waiting for %s: %v", sql, err)
	}
}

func execSQL(ctx context.Context, dsn string, sql ...string) error {
	return connected(ctx, dsn, func(conn *pgconn.PgConn) error {
		for _, s := range sql {
			err := conn.Exec(ctx, s).Close()
			for end := time.Now().Add(time.Minute); isInUse(err) && time.Now().Before(end); err = conn.Exec(ctx, s).Close() {
				time.Sleep(5 * time.Millisecond)
			}
			if err != nil {
				return fmt.Errorf("pgtest: %s: %w", s, err)
			}
		}
		return nil
	})
}

// isInUse says whether a slot or a database is in use. Whoever has used it may be about to leave: a walsender needs a moment.
func isInUse(err error) bool {
	pg := (*pgconn.PgError)(nil)
	return errors.As(err, &pg) && pg.Code == "55006"
}

var errNotOneRow = errors.New("not one row")

func queryOne(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("pgtest: %s: %w", sql, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) == 0 {
		return "", fmt.Errorf("pgtest: %s: %w", sql, errNotOneRow)
	}
	return string(results[0].Rows[0][0]), nil
}

func connected(ctx context.Context, dsn string, f func(*pgconn.PgConn) error) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}
