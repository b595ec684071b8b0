package walrecord_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/walrecord"
)

const blockSize = 8192

// page is the first page of a segment, with no record in it; the record at 1000 says that it is long.
func page(at fakewal.LSN, length uint32) []byte {
	b := make([]byte, blockSize)
	binary.LittleEndian.PutUint16(b, 0xD110)
	binary.LittleEndian.PutUint64(b[8:], uint64(at))
	binary.LittleEndian.PutUint32(b[1000:], length)
	binary.LittleEndian.PutUint32(b[1004:], 7)
	b[1017] = 1   // a transaction's
	b[1024] = 254 // its main data is the rest
	binary.LittleEndian.PutUint32(b[1025:], length-29)
	return b
}

// What a server may do in place of an answer.
func TestFindFaults(t *testing.T) {
	const at = fakewal.LSN(16 << 20)
	send := func(length uint32) fakewal.Script {
		return func(c *fakewal.Conn) error { return c.Data(at, at+blockSize, page(at, length)) }
	}
	for name, c := range map[string]struct {
		query    func(*fakewal.Conn, string) (*fakewal.Result, error)
		script   fakewal.Script
		timeout  time.Duration // of the context
		end      fakewal.LSN   // of the server's WAL
		answer   walrecord.Answer
		err      string
		sqlState string
		within   time.Duration
	}{
		"an answer": {script: send(37), answer: walrecord.No},
		"an answer in pieces": {script: func(c *fakewal.Conn) error {
			b := page(at, 37)
			for i := 0; i < len(b); i += 24 {
				if err := c.Data(at+fakewal.LSN(i), at, b[i:min(len(b), i+24)]); err != nil {
					return err
				}
				if err := c.Keepalive(at, i == 0); err != nil {
					return err
				}
			}
			return nil
		}, answer: walrecord.No},
		"not that far":              {end: at + 1000, err: "the server's WAL ends at 0/10003E8"},
		"nothing comes":             {err: "no answer within 5s", within: 5 * time.Second},
		"the record does not end":   {script: send(100_000), err: "no answer within 5s", within: 5 * time.Second},
		"nor does the context wait": {timeout: time.Second, err: context.DeadlineExceeded.Error(), within: time.Second},
		"the question is not answered": {query: func(c *fakewal.Conn, _ string) (*fakewal.Result, error) {
			<-c.Done()
			return nil, fakewal.ErrGone
		}, err: "no answer within 5s", within: 5 * time.Second},
		"an endless record": {script: func(c *fakewal.Conn) error {
			if err := c.Data(at, at, page(at, 1<<30)); err != nil {
				return err
			}
			next := at + blockSize
			for b := make([]byte, 1<<20); ; next += 1 << 20 {
				if err := c.Data(next, next, b); err != nil {
					return fakewal.ErrGone
				}
			}
		}, err: "does not end within 16777216 bytes"},
		"other WAL": {script: func(c *fakewal.Conn) error { return c.Data(at-blockSize, at, page(at-blockSize, 37)) }, err: "0/FFE000 instead of 0/1000000"},
		"a gap": {script: func(c *fakewal.Conn) error {
			return errors.Join(c.Data(at, at, page(at, 37)[:100]), c.Data(at+blockSize, at, page(at, 37)))
		}, err: "0/1002000 instead of 0/1000064"},
		"removed": {script: func(*fakewal.Conn) error {
			return fakewal.Error("58P01", "requested WAL segment 000000010000000000000001 has already been removed")
		}, sqlState: "58P01"},
		"killed":            {script: func(*fakewal.Conn) error { return fakewal.Fatal("57P01", "terminating connection") }, sqlState: "57P01"},
		"disconnected":      {script: func(c *fakewal.Conn) error { c.Close(); return fakewal.ErrGone }, err: "EOF"},
		"the timeline ends": {script: func(c *fakewal.Conn) error { return c.EndTimeline(2, at) }, err: "timeline ends before the record"},
		"refused": {query: func(_ *fakewal.Conn, sql string) (*fakewal.Result, error) {
			if strings.HasPrefix(sql, "START_REPLICATION") {
				return nil, fakewal.Error("42501", "permission denied")
			}
			return nil, nil
		}, sqlState: "42501"},
		"the timeline has ended": {query: func(_ *fakewal.Conn, sql string) (*fakewal.Result, error) {
			if strings.HasPrefix(sql, "START_REPLICATION") {
				return &fakewal.Result{Columns: []string{"next_tli", "next_tli_startpos"}, Rows: [][]any{{2, "0/1000000"}}}, nil
			}
			return nil, nil
		}, err: "timeline ends before the record"},
		"odd pages": {query: func(_ *fakewal.Conn, sql string) (*fakewal.Result, error) {
			if sql == "SHOW wal_block_size" {
				return &fakewal.Result{Columns: []string{"wal_block_size"}, Rows: [][]any{{"8kB"}}}, nil
			}
			return nil, nil
		}, err: "wal_block_size"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakewal.New()
				srv.Update(func(s *fakewal.State) { s.Query, s.WALEnd = c.query, cmp.Or(c.end, at+1<<20) })
				if c.script != nil {
					srv.Serve(c.script)
				}
				defer func() {
					if err := srv.Close(); err != nil {
						t.Error(err)
					}
				}()
				ctx := t.Context()
				if c.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.timeout)
					defer cancel()
				}
				conn, err := pgconn.ConnectConfig(t.Context(), srv.Config())
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					conn.Close(context.Background())
					<-conn.CleanupDone()
				}()
				began := time.Now()
				answer, err := walrecord.Find(ctx, conn, 1, walrecord.Want{LSN: uint64(at) + 1000, XID: 7, Time: 8})
				took := time.Since(began)
				state := ""
				if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
					state = pgErr.Code
				}
				if answer != c.answer || (err == nil) != (answer != walrecord.None) || err != nil && !strings.Contains(err.Error(), c.err) || state != c.sqlState || took != c.within {
					t.Errorf("%v %v (%s) after %v", answer, err, state, took)
				}
			})
		})
	}
}
