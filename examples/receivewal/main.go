// Receivewal writes PostgreSQL's write-ahead log into a directory, as segment files like those of pg_receivewal, of which it does
// the main job:
//
//	receivewal -d postgres://localhost --slot archive --create-slot
//	receivewal -d postgres://localhost --slot archive -D /var/lib/wal
//
// Files that are not complete end in .partial. Killed at any moment, it goes on where it was: at the beginning of a file that is
// not complete, whose content it compares with what the server sends. If they differ, the server has another history, and
// receivewal ends. Nothing is acknowledged that is not safe on disk. With --synchronous it can be a synchronous standby: then the server's synchronous_standby_names has its
// application_name, which stands in the connection string, and a COMMIT waits until it is on two disks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
)

type flags struct {
	dsn         string
	dir         string
	slot        string
	createSlot  bool
	dropSlot    bool
	ifNotExists bool
	endpos      walchan.LSN
	interval    int
	synchronous bool
	noLoop      bool
	verbose     bool
}

func main() {
	f, err := parseFlags(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for what is in hand
	err = run(ctx, f)
	if errors.Is(err, walchan.ErrSlotMissing) && !f.dropSlot {
		err = fmt.Errorf("%w (here: -create-slot)", err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "receivewal:", err)
		os.Exit(1)
	}
}

// parseFlags takes the names of pg_receivewal, short and long.
func parseFlags(args []string, output io.Writer) (f flags, err error) {
	set := flag.NewFlagSet("receivewal", flag.ContinueOnError)
	set.SetOutput(output)
	for _, n := range []string{"E", "endpos"} {
		set.Func(n, "stop when everything up to this `LSN` is received", func(s string) (err error) {
			f.endpos, err = walchan.ParseLSN(s)
			return err
		})
	}
	for _, n := range []string{"d", "dbname"} {
		set.StringVar(&f.dsn, n, "", "connection `string`: a URL or keywords (default: what PGHOST etc. say)")
	}
	for _, n := range []string{"D", "directory"} {
		set.StringVar(&f.dir, n, "", "`directory` to write to; it must exist")
	}
	for _, n := range []string{"S", "slot"} {
		set.StringVar(&f.slot, n, "", "`name` of the replication slot, which keeps the WAL that is not received yet")
	}
	for _, n := range []string{"s", "status-interval"} {
		set.IntVar(&f.interval, n, 10, "`seconds` between two statuses; without -synchronous also between two fsyncs")
	}
	for _, n := range []string{"n", "no-loop"} {
		set.BoolVar(&f.noLoop, n, false, "end when the connection is lost, instead of trying again")
	}
	for _, n := range []string{"v", "verbose"} {
		set.BoolVar(&f.verbose, n, false, "tell what happens")
	}
	set.BoolVar(&f.synchronous, "synchronous", false, "fsync and acknowledge at once, instead of with whole segments")
	set.BoolVar(&f.createSlot, "create-slot", false, "create the slot, and end; from then on the server keeps WAL for it")
	set.BoolVar(&f.ifNotExists, "if-not-exists", false, "with -create-slot: the slot may exist")
	set.BoolVar(&f.dropSlot, "drop-slot", false, "drop the slot, and end")
	if err = set.Parse(args); err != nil {
		return f, err
	}
	switch {
	case set.NArg() > 0:
		err = fmt.Errorf("what is %q?", set.Arg(0))
	case f.createSlot && f.dropSlot:
		err = errors.New("-create-slot and -drop-slot exclude one another")
	case (f.createSlot || f.dropSlot) && f.slot == "":
		err = errors.New("which slot? Name it with -slot")
	case !f.createSlot && !f.dropSlot && f.dir == "":
		err = errors.New("where to? Name a directory with -D")
	case f.interval < 1:
		err = errors.New("-status-interval: at least 1")
	}
	if err != nil {
		fmt.Fprintln(output, "receivewal:", err)
	}
	return f, err
}

func run(ctx context.Context, f flags) error {
	size, done, err := prepare(ctx, f)
	if err != nil || done {
		return err
	}
	a, err := openArchive(f.dir, size)
	if err != nil {
		return err
	}
	defer a.close()
	stream, err := walchan.SubscribePhysical(ctx, f.dsn, options(f, a)...)
	if err != nil {
		return err
	}
	err = receive(stream, a, f)
	return errors.Join(err, stream.Close())
}

// prepare does what is to be done with the slot, which may be all. It asks the server for the size of a segment.
func prepare(ctx context.Context, f flags) (size walchan.LSN, done bool, err error) {
	conn, err := admin.Connect(ctx, f.dsn, admin.WithPhysical())
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	switch {
	case f.createSlot:
		_, err := conn.CreateSlot(ctx, admin.SlotSpec{Name: f.slot, Physical: true, ReserveWAL: true})
		if f.ifNotExists && errors.Is(err, walchan.ErrSlotExists) {
			err = nil
		}
		return 0, true, err
	case f.dropSlot:
		return 0, true, conn.DropSlot(ctx, f.slot, admin.DropOptions{})
	}
	size, err = segmentSize(ctx, conn)
	return size, false, err
}

// options has the stream go on where the archive ends.
func options(f flags, a *archive) []walchan.Option {
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelInfo
	}
	interval := time.Duration(f.interval) * time.Second
	opts := []walchan.Option{
		walchan.WithWholeSegments(),
		walchan.WithStatusInterval(interval),
		walchan.WithReceiveTimeout(max(2*interval, time.Minute)),
		walchan.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))),
	}
	if f.slot != "" {
		opts = append(opts, walchan.WithSlot(f.slot))
	}
	if a.start != 0 {
		opts = append(opts, walchan.WithWALFrom(a.start, a.timeline))
	}
	if f.noLoop {
		opts = append(opts, walchan.WithRetry(func() backoff.BackOff { return &backoff.StopBackOff{} }))
	}
	return opts
}

// receive writes what comes, and acknowledges what is safe: at the end of a segment; if there is nothing more to write for the
// moment, with synchronous; and every interval.
func receive(stream *walchan.Stream, a *archive, f flags) error {
	tick := time.NewTicker(time.Duration(f.interval) * time.Second)
	defer tick.Stop()
	var last walchan.Message
	save := func() error {
		if err := a.sync(); err != nil {
			return err
		}
		stream.AckThrough(last)
		return nil
	}
	for {
		var due bool
		select {
		case msg, ok := <-stream.C():
			if !ok {
				return errors.Join(save(), stream.Err())
			}
			last = msg
			var err error
			if due, err = a.add(msg); err != nil {
				return err
			}
			due = due || f.synchronous && len(stream.C()) == 0
		case <-tick.C:
			due = true
		}
		if due {
			if err := save(); err != nil {
				return err
			}
		}
		if f.endpos != 0 && last.End() > f.endpos {
			return save()
		}
	}
}
