package main

import (
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
	columns := flags.String("columns", "4,10,30", "widths of the rows, comma-separated; mix is the work of that name")
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
		rec := usual
		rec.messages = *messages
		c := &contest{title: field, transport: tcp}
		if field == "mix" {
			rec.columns, rec.width = 5, 12
			rec.rows = max(1, rec.messages*5/8/most) * most // a single row has Begin and Commit, too
			rec.singles = rec.rows / 5
			c.what = fmt.Sprintf("one transaction of %d rows of %d columns, then %d transactions of one row", rec.rows, rec.columns, rec.singles)
		} else {
			n, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			rec.columns = n
			c.title += " columns"
			c.what = fmt.Sprintf("transactions of %d rows of %d columns", rec.rows, n)
		}
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
	singles  int // so many transactions of one row come after it
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

// make records enough transactions for large writes, and repeats them; or one large transaction, of which the rows are
// repeated. Behind them comes one of a single row, that marks the end.
func (rec recording) make() (*prepared, io.Reader) {
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
	inserts = slices.Repeat(inserts, rec.rows/rec.tables+1)[:min(rec.rows, most)]
	transaction := func(i fakewal.LSN, changes ...[]byte) []fakewal.Frame {
		begin := replayStart + i*replayStep
		return fakewal.Tx{XID: 700, First: begin + 0x100, Commit: begin + replayStep - 0x100, End: begin + replayStep, Changes: changes}.Frames()
	}

	p := &prepared{}
	var parts []io.Reader
	frames, end := transaction(0, slices.Concat(tables, inserts)...), fakewal.LSN(1)
	if rec.rows >= most {
		rows, commit := 1+len(tables), len(frames)-1
		parts = append(parts, p.record(frames[:rows], 1, 0), p.record(frames[rows:commit], rec.rows/most, 0), p.record(frames[commit:], 1, 0))
	} else {
		for size := 0; size < 1<<20; end++ {
			next := transaction(end, inserts...)
			for _, f := range next {
				size += len(f.Payload)
			}
			frames = append(frames, next...)
		}
		repeats := max(1, rec.messages/len(frames))
		parts = append(parts, p.record(frames, repeats, end*replayStep))
		end *= fakewal.LSN(repeats)
	}
	p.changes = int(end)*rec.rows + 1
	if repeats := rec.singles / singlesRecorded; repeats > 0 {
		var singles []fakewal.Frame
		for i := range fakewal.LSN(singlesRecorded) {
			singles = append(singles, transaction(end+i, inserts[0])...)
		}
		parts = append(parts, p.record(singles, repeats, singlesRecorded*replayStep))
		p.changes += repeats * singlesRecorded
		end += fakewal.LSN(repeats) * singlesRecorded
	}
	parts = append(parts, p.record(transaction(end, inserts[0]), 1, 0))
	p.filled = replayStart + end*replayStep
	p.end = p.filled + replayStep
	p.commit = p.end - 0x100
	p.messages *= rec.streams
	p.changes *= rec.streams
	p.bytes *= int64(rec.streams)
	return p, io.MultiReader(parts...)
}

// most is how many rows are recorded one by one.
const most = 100_000

// singlesRecorded is how many transactions of one row are.
const singlesRecorded = 4096

// record counts frames that are sent n times, each time a step further on in the log.
func (p *prepared) record(frames []fakewal.Frame, n int, step fakewal.LSN) io.Reader {
	var b []byte
	for _, f := range frames {
		b = f.Append(b)
		p.bytes += int64(n * len(f.Payload))
	}
	p.messages += n * len(frames)
	return fakewal.Repeat(b, n, step)
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
