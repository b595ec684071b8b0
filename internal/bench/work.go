package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// work is something for the server to send.
type work struct {
	name       string
	what       string // with %s for the number of rows
	columns    string
	rows       int // at scale 1
	fill       func(rows int) []string
	transports []string
	typed      bool // rows have the five columns of the type five
}

const (
	publication = "bench"
	template    = "bench_template" // the slot that marks where the work begins
	fiveColumns = "id bigint, customer int, name text, price numeric(10,2), at timestamptz"
	fiveValues  = "i, i % 1000, 'customer number ' || i, i % 100000 / 100.0, now()"
)

var works = []work{
	{
		name: "mix", what: "one transaction of %d rows of five columns, then a fifth as many transactions of one row",
		columns: fiveColumns, rows: 1_000_000, transports: []string{tcp, unix, tls}, typed: true,
		fill: func(n int) []string { return append(together(n, fiveValues), oneByOne(n/5, fiveValues)...) },
	},
	{
		name: "single", what: "%d transactions of one row of five columns",
		columns: fiveColumns, rows: 500_000, transports: []string{tcp}, typed: true,
		fill: func(n int) []string { return oneByOne(n, fiveValues) },
	},
	{
		name: "10kB", what: "%d rows of 10 kB",
		columns: "id bigint, body text", rows: 50_000, transports: []string{tcp},
		fill: func(n int) []string { return body(n, 10_000) },
	},
	{
		name: "1MB", what: "%d rows of 1 MB",
		columns: "id bigint, body text", rows: 500, transports: []string{tcp},
		fill: func(n int) []string { return body(n, 1_000_000) },
	},
	{
		name: "wide", what: "%d rows of 100 columns",
		columns: wideColumns(100), rows: 100_000, transports: []string{tcp},
		fill: func(n int) []string { return together(n, strings.Repeat("'value', ", 99)+"i") },
	},
	{
		name: "large", what: "one transaction of %d rows of five columns",
		columns: fiveColumns, rows: 10_000_000, transports: []string{tcp}, typed: true,
		fill: func(n int) []string { return together(n, fiveValues) },
	},
}

func together(n int, values string) []string {
	return []string{fmt.Sprintf("INSERT INTO work SELECT %s FROM generate_series(1, %d) i", values, n)}
}

func oneByOne(n int, values string) []string {
	return []string{fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP INSERT INTO work SELECT %s; COMMIT; END LOOP; END $$", n, values)}
}

func body(n, size int) []string {
	return append([]string{"ALTER TABLE work ALTER body SET STORAGE EXTERNAL"}, // not compressed
		together(n, fmt.Sprintf("i, repeat('x', %d)", size))...)
}

func wideColumns(n int) string {
	var b strings.Builder
	for i := range n - 1 {
		fmt.Fprintf(&b, "c%d text, ", i)
	}
	return b.String() + "id int"
}

// prepared is work that is in the server's log: what begins at the slot called template.
type prepared struct {
	rows     int           // of the table
	filled   pglogrepl.LSN // end of the transaction before the last
	commit   pglogrepl.LSN // of the last transaction, which has one row and marks the end: LSN of its commit record
	end      pglogrepl.LSN // and of the whole
	messages int           // of pgoutput
	changes  int           // those of them that are rows
	bytes    int64         // of all messages
}

// prepare does the work once. Each run will receive it from a copy of the template slot.
func (s *server) prepare(ctx context.Context, w *work, scale float64) (*prepared, error) {
	p := &prepared{rows: max(int(float64(w.rows)*scale), 5)}
	sql := []string{
		"DROP PUBLICATION IF EXISTS " + publication,
		"DROP TABLE IF EXISTS work, finish",
		"CREATE TABLE work (" + w.columns + ")",
		"CREATE TABLE finish (id int)",
		"CREATE PUBLICATION " + publication + " FOR ALL TABLES",
		"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
		"CHECKPOINT",
		"SELECT pg_create_logical_replication_slot('" + template + "', 'pgoutput')",
	}
	sql = append(sql, w.fill(p.rows)...)
	sql = append(sql, "INSERT INTO finish VALUES (1)", "CHECKPOINT")
	if err := s.exec(ctx, sql...); err != nil {
		return nil, err
	}
	return p, s.survey(ctx, p)
}

// survey receives the work for the first time, to count it and to find its end, and waits for its walsender to end, whose CPU
// time is not to be taken for another's.
func (s *server) survey(ctx context.Context, p *prepared) error {
	children := s.children()
	err := s.count(ctx, p)
	_, cpuErr := s.cpu(children)
	return errors.Join(err, cpuErr)
}

func (s *server) count(ctx context.Context, p *prepared) error {
	cfg, err := pgconn.ParseConfig(s.SocketDSN("replication=database"))
	if err != nil {
		return err
	}
	conn, err := startPlain(ctx, cfg, template)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	last := false
	for {
		msg, err := conn.Frontend().Receive()
		if err != nil {
			return err
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok {
			return fmt.Errorf("unexpected %T", msg)
		}
		if data.Data[0] != pglogrepl.XLogDataByteID {
			if err := sendStatus(ctx, conn, 0); err != nil { // 0 confirms nothing
				return err
			}
			continue
		}
		m := data.Data[25:]
		p.messages++
		p.bytes += int64(len(m))
		switch m[0] {
		case 'R':
			last = strings.HasPrefix(string(m[5:]), "public\x00finish\x00")
		case 'I':
			p.changes++
		case 'C':
			var c pglogrepl.CommitMessage
			if err := c.Decode(m[1:]); err != nil {
				return err
			}
			if last {
				p.commit, p.end = c.CommitLSN, c.TransactionEndLSN
				return nil
			}
			p.filled = c.TransactionEndLSN
		}
	}
}

func (s *server) openSlot(ctx context.Context, name string) error {
	return s.exec(ctx, fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s', '%s')", template, name))
}

// closeSlot waits until the slot's walsender has let it go.
func (s *server) closeSlot(ctx context.Context, name string) (pglogrepl.LSN, error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		free, err := s.query(ctx, fmt.Sprintf("SELECT active_pid IS NULL FROM pg_replication_slots WHERE slot_name = '%s'", name))
		switch {
		case err != nil:
			return 0, err
		case free == "t":
			lsn, err := s.query(ctx, fmt.Sprintf("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '%s'", name))
			if err != nil {
				return 0, err
			}
			confirmed, err := pglogrepl.ParseLSN(lsn)
			return confirmed, errors.Join(err, s.exec(ctx, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", name)))
		case time.Now().After(deadline):
			return 0, fmt.Errorf("slot %s is not let go", name)
		}
	}
}
