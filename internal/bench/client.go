package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walchan/walchan/internal/fakewal"
)

// client measures the contenders alone: a server that only copies bytes to the socket, so that the client is what takes
// the time.
func client(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var e entry
	e.flags(flags)
	columns := flags.String("columns", "4,10,30", "widths of the rows, comma-separated")
	messages := flags.Int("messages", 2_000_000, "how many messages")
	flags.Parse(args)
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	rep := newReport("The client alone", "make bench", "pglogrepl", e.rounds, 1)
	rep.say("The server is a fake one that sends recorded messages over TCP as fast as they are read.")
	racing := e.racing(rep)
	for field := range strings.SplitSeq(*columns, ",") {
		n, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		rec := usual
		rec.columns, rec.messages = n, *messages
		c := &contest{title: fmt.Sprintf("%d columns", n), transport: tcp,
			what: fmt.Sprintf("transactions of %d rows of %d columns", rec.rows, n)}
		if err := c.holdReplay(ctx, srv, rec, racing, &e); err != nil {
			return err
		}
		rep.add(c, racing)
	}
	return rep.write(e.out, "client")
}

// recording says what a fake server sends: transactions of inserts, over and over.
type recording struct {
	columns  int
	width    int // bytes of a column's value
	rows     int // of a transaction
	tables   int // that the rows of a transaction take in turn
	messages int // altogether, roughly
	streams  int // that are sent it at the same time
}

var usual = recording{columns: 10, width: 10, rows: 100, tables: 1, messages: 2_000_000, streams: 1}

// holdReplay holds the contest at a server that sends the recording.
func (c *contest) holdReplay(ctx context.Context, programs *server, rec recording, racing []*contender, e *entry) error {
	r := &replay{srv: fakewal.New(), streams: rec.streams, programs: programs}
	r.srv.Update(func(s *fakewal.State) {
		s.Publications = []string{publication}
		s.Settings["data_directory_mode"], s.Settings["wal_segment_size"] = "0700", "16MB" // asked for by pg_recvlogical
		s.Query = func(_ *fakewal.Conn, sql string) (*fakewal.Result, error) {
			if strings.Contains(sql, "set_config") {
				return &fakewal.Result{Columns: []string{"set_config"}, Rows: [][]any{{""}}}, nil
			}
			return nil, nil
		}
	})
	c.prepared, _ = rec.make()
	r.srv.Serve(func(conn *fakewal.Conn) error {
		_, wal := rec.make()
		return conn.Replay(wal)
	})
	var err error
	if r.addr, err = r.srv.Listen(); err != nil {
		return err
	}
	return errors.Join(c.hold(ctx, r, racing, e), r.srv.Close())
}

// Positions in a recording.
const (
	replayStart = fakewal.LSN(0x1000000)
	replayStep  = fakewal.LSN(0x1000000) // WAL of a transaction
)

// make records enough transactions for large writes, and repeats them. Behind them comes one of a single row, that marks the
// end.
func (rec recording) make() (*prepared, io.Reader) {
	p := &prepared{}
	record := func(b []byte, i fakewal.LSN, changes ...[]byte) []byte {
		begin := replayStart + i*replayStep
		tx := fakewal.Tx{XID: 700, First: begin + 0x100, Commit: begin + replayStep - 0x100, End: begin + replayStep, Changes: changes}
		for _, f := range tx.Frames() {
			b = f.Append(b)
			p.messages++
			p.bytes += int64(len(f.Payload))
		}
		return b
	}
	var tables, inserts [][]byte
	row := slices.Repeat([]any{strings.Repeat("x", rec.width)}, rec.columns)
	for i := range rec.tables {
		table := fakewal.Relation{OID: 16400 + uint32(i), Schema: "public", Name: fmt.Sprintf("work%d", i)}
		for j := range rec.columns {
			table.Columns = append(table.Columns, fakewal.Column{Name: fmt.Sprintf("c%d", j), Mod: -1})
		}
		tables = append(tables, table.Encode())
		inserts = append(inserts, fakewal.Insert(table.OID, row...))
	}
	inserts = slices.Repeat(inserts, rec.rows/rec.tables+1)[:rec.rows]

	recorded := record(nil, 0, slices.Concat(tables, inserts)...)
	transactions := fakewal.LSN(1)
	for ; len(recorded) < 1<<20; transactions++ {
		recorded = record(recorded, transactions, inserts...)
	}
	repeats := max(1, rec.messages/p.messages)
	p.messages *= repeats
	p.bytes *= int64(repeats)
	end := fakewal.LSN(repeats) * transactions
	p.changes = int(end)*rec.rows + 1
	last := record(nil, end, inserts[0])
	p.filled = replayStart + end*replayStep
	p.end = p.filled + replayStep
	p.commit = p.end - 0x100
	p.messages *= rec.streams
	p.changes *= rec.streams
	p.bytes *= int64(rec.streams)
	return p, io.MultiReader(fakewal.Repeat(recorded, repeats, transactions*replayStep), bytes.NewReader(last))
}

// replay is a venue whose server is a fake one.
type replay struct {
	srv      *fakewal.Server
	addr     string
	streams  int
	programs *server // a real one, for its programs only
}

func (r *replay) dsn(string) string {
	host, port, _ := net.SplitHostPort(r.addr)
	return fmt.Sprintf("host=%s port=%s user=fakewal dbname=fakewal sslmode=disable", host, port)
}

func (r *replay) openSlot(_ context.Context, name string) error {
	r.srv.Update(func(s *fakewal.State) {
		s.Slots[name] = fakewal.LogicalSlot(replayStart)
		for i := range r.streams {
			s.Slots[fmt.Sprintf("%s%d", name, i)] = fakewal.LogicalSlot(replayStart)
		}
	})
	return nil
}

func (r *replay) closeSlot(_ context.Context, name string) (pglogrepl.LSN, error) {
	if r.streams > 1 {
		name += "0" // one for all
	}
	slot, ok := r.srv.Slot(name)
	if !ok {
		return 0, fmt.Errorf("slot %s is gone", name)
	}
	return slot.ConfirmedFlush, nil
}

func (r *replay) bin(program string) string { return r.programs.bin(program) }

func (r *replay) children() int                  { return 0 }
func (r *replay) cpu(int) (time.Duration, error) { return 0, nil }
