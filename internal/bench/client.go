package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os/exec"
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
	rep := newReport("The client alone", "make bench", "pglogrepl", e.rounds, 1)
	rep.say("The server is a fake one that sends recorded messages over TCP as fast as they are read.")
	racing := e.racing(rep)
	for field := range strings.SplitSeq(*columns, ",") {
		n, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		f, p, err := newReplay(n, *messages)
		if err != nil {
			return err
		}
		c := &contest{title: fmt.Sprintf("%d columns", n), prepared: p, transport: tcp,
			what: fmt.Sprintf("transactions of %d rows of %d columns", rowsOfReplay, n)}
		err = c.hold(ctx, f, racing, &e)
		if closeErr := f.srv.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
		rep.add(c, racing)
	}
	rep.contenders(racing)
	return rep.write(e.out, "client")
}

// replay is a server that sends a recording.
type replay struct {
	srv  *fakewal.Server
	addr string
}

const rowsOfReplay = 100 // of a transaction

// newReplay makes a recording of 50 transactions, and a server that repeats it.
func newReplay(columns, messages int) (*replay, *prepared, error) {
	const (
		transactions = 50
		start        = fakewal.LSN(0x1000000)
		step         = fakewal.LSN(0x10000) // WAL of a transaction
	)
	table := fakewal.Relation{OID: 16400, Schema: "public", Name: "work"}
	row := make([]any, columns)
	for i := range columns {
		table.Columns = append(table.Columns, fakewal.Column{Name: fmt.Sprintf("c%d", i), Mod: -1})
		row[i] = "value of " + strconv.Itoa(i)
	}
	p := &prepared{}
	record := func(b []byte, i fakewal.LSN, changes ...[]byte) []byte {
		tx := fakewal.Tx{XID: 700, First: start + i*step + 0x100, Commit: start + (i+1)*step - 0x100, End: start + (i+1)*step, At: time.Now(), Changes: changes}
		for _, f := range tx.Frames() {
			b = f.Append(b)
			p.messages++
			p.bytes += int64(len(f.Payload))
		}
		return b
	}
	insert := fakewal.Insert(table.OID, row...)
	recorded := record(nil, 0, append([][]byte{table.Encode()}, slices.Repeat([][]byte{insert}, rowsOfReplay)...)...)
	for i := range fakewal.LSN(transactions - 1) {
		recorded = record(recorded, i+1, slices.Repeat([][]byte{insert}, rowsOfReplay)...)
	}
	repeats := max(1, messages/p.messages)
	p.messages *= repeats
	p.bytes *= int64(repeats)
	p.changes = repeats*transactions*rowsOfReplay + 1
	end := fakewal.LSN(repeats * transactions)
	p.filled = start + end*step
	last := record(nil, end, insert) // one row, that marks the end
	p.end = p.filled + step
	p.commit = p.end - 0x100

	r := &replay{srv: fakewal.New()}
	r.srv.Update(func(s *fakewal.State) { s.Publications = []string{publication} })
	r.srv.Serve(func(c *fakewal.Conn) error {
		return c.Replay(io.MultiReader(fakewal.Repeat(recorded, repeats, transactions*step), bytes.NewReader(last)))
	})
	var err error
	r.addr, err = r.srv.Listen()
	return r, p, err
}

func (r *replay) dsn(string) string {
	host, port, _ := net.SplitHostPort(r.addr)
	return fmt.Sprintf("host=%s port=%s user=fakewal dbname=fakewal sslmode=disable", host, port)
}

func (r *replay) openSlot(_ context.Context, name string) error {
	r.srv.Update(func(s *fakewal.State) { s.Slots[name] = fakewal.LogicalSlot(0x1000000) })
	return nil
}

func (r *replay) closeSlot(_ context.Context, name string) (pglogrepl.LSN, error) {
	slot, ok := r.srv.Slot(name)
	if !ok {
		return 0, fmt.Errorf("slot %s is gone", name)
	}
	return slot.ConfirmedFlush, nil
}

func (r *replay) bin(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return program
	}
	return path
}

func (r *replay) children() int                  { return 0 }
func (r *replay) cpu(int) (time.Duration, error) { return 0, nil }
