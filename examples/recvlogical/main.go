// Recvlogical writes what an output plugin makes of PostgreSQL's write-ahead log to a file, or to the standard output: the main job
// of pg_recvlogical, with its flags.
//
//	recvlogical -d postgres://localhost/mydb --slot audit --create-slot -P test_decoding
//	recvlogical -d postgres://localhost/mydb --slot audit --start -f audit.log -o include-timestamp=on
//	recvlogical -d postgres://localhost/mydb --slot audit --drop-slot
//
// Nothing is acknowledged that is not safe on disk. Killed at any moment it goes on where it was; what it then writes again are
// whole transactions. After SIGHUP it opens its file anew: for logrotate.
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
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
)

type flags struct {
	dsn                      string
	slot                     string
	create, drop, start      bool
	ifNotExists, twoPhase    bool
	plugin                   string
	options                  map[string]string
	file                     string
	startpos, endpos         walchan.LSN
	fsyncSeconds, statusSecs int
	noLoop, verbose          bool
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
	if errors.Is(err, walchan.ErrSlotMissing) && !f.drop {
		err = fmt.Errorf("%w (here: -create-slot)", err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "recvlogical:", err)
		os.Exit(1)
	}
}

// parseFlags takes the names of pg_recvlogical, short and long.
func parseFlags(args []string, output io.Writer) (f flags, err error) {
	set := flag.NewFlagSet("recvlogical", flag.ContinueOnError)
	set.SetOutput(output)
	text := func(to *string, usage string, names ...string) {
		for _, n := range names {
			set.StringVar(to, n, *to, usage)
		}
	}
	seconds := func(to *int, usage string, names ...string) {
		for _, n := range names {
			set.IntVar(to, n, 10, usage)
		}
	}
	on := func(to *bool, usage string, names ...string) {
		for _, n := range names {
			set.BoolVar(to, n, false, usage)
		}
	}
	value := func(usage string, take func(string) error, names ...string) {
		for _, n := range names {
			set.Func(n, usage, take)
		}
	}
	position := func(to *walchan.LSN) func(string) error {
		return func(s string) (err error) { *to, err = walchan.ParseLSN(s); return err }
	}
	on(&f.create, "create the slot; with -start, stream from it then", "create-slot")
	on(&f.drop, "drop the slot", "drop-slot")
	on(&f.start, "stream from the slot", "start")
	on(&f.ifNotExists, "with -create-slot: the slot may exist", "if-not-exists")
	on(&f.twoPhase, "with -create-slot: decode transactions when they are prepared", "t", "two-phase")
	text(&f.dsn, "connection `string`: a URL or keywords (default: what PGHOST etc. say)", "d", "dsn", "dbname")
	text(&f.slot, "`name` of the slot", "S", "slot")
	text(&f.plugin, "output `plugin` (default: the slot's; of a new slot test_decoding)", "P", "plugin")
	f.file = "-"
	text(&f.file, "`file` to append to; - is the standard output", "f", "file")
	value("start at this `LSN` instead of where the slot is", position(&f.startpos), "I", "startpos")
	value("end at this `LSN`", position(&f.endpos), "E", "endpos")
	seconds(&f.fsyncSeconds, "`seconds` between two fsyncs; 0: none, and what is written counts as safe", "F", "fsync-interval")
	seconds(&f.statusSecs, "`seconds` between two statuses", "s", "status-interval")
	on(&f.noLoop, "end when the connection is lost, instead of trying again", "n", "no-loop")
	on(&f.verbose, "tell what happens", "v", "verbose")
	f.options = map[string]string{}
	value("`option` of the output plugin: name or name=value", func(s string) error {
		name, value, _ := strings.Cut(s, "=")
		f.options[name] = value
		return nil
	}, "o", "option")
	if err = set.Parse(args); err != nil {
		return f, err
	}
	switch {
	case set.NArg() > 0:
		err = fmt.Errorf("what is %q?", set.Arg(0))
	case f.slot == "":
		err = errors.New("which slot? Name it with -slot")
	case !f.create && !f.drop && !f.start:
		err = errors.New("what to do? Say -create-slot, -start or -drop-slot")
	case f.drop && (f.create || f.start):
		err = errors.New("-drop-slot stands alone")
	case f.twoPhase && !f.create:
		err = errors.New("-two-phase is for -create-slot")
	case (f.startpos != 0 || f.endpos != 0) && !f.start:
		err = errors.New("-startpos and -endpos are for -start")
	case f.fsyncSeconds < 0 || f.statusSecs < 1:
		err = errors.New("-fsync-interval must not be negative, -status-interval at least 1")
	}
	if err != nil {
		fmt.Fprintln(output, "recvlogical:", err)
	}
	return f, err
}

func run(ctx context.Context, f flags) error {
	plugin, err := prepare(ctx, f)
	if err != nil || !f.start {
		return err
	}
	out, err := open(f.file, f.fsyncSeconds > 0)
	if err != nil {
		return err
	}
	return errors.Join(receive(ctx, f, plugin, out), out.close())
}

// prepare does what is to be done with the slot, and returns the plugin to ask for.
func prepare(ctx context.Context, f flags) (plugin string, err error) {
	conn, err := admin.Connect(ctx, f.dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if f.drop {
		return "", conn.DropSlot(ctx, f.slot, admin.DropOptions{})
	}
	if f.create {
		if err := create(ctx, conn, f); err != nil {
			return "", err
		}
	}
	if !f.start {
		return "", nil
	}
	return pluginOf(ctx, conn, f)
}

func create(ctx context.Context, conn *admin.Conn, f flags) error {
	if f.plugin == "" {
		f.plugin = "test_decoding"
	}
	_, err := conn.CreateSlot(ctx, admin.SlotSpec{Name: f.slot, Plugin: f.plugin, TwoPhase: f.twoPhase})
	if f.ifNotExists && errors.Is(err, walchan.ErrSlotExists) {
		return nil
	}
	return err
}

// pluginOf returns the plugin to ask for: that of the slot unless it was named.
func pluginOf(ctx context.Context, conn *admin.Conn, f flags) (string, error) {
	plugin := f.plugin
	if plugin == "" {
		slots, err := conn.Slots(ctx)
		if err != nil {
			return "", err
		}
		plugin = "test_decoding" // of a slot that is missing: Subscribe says so
		for _, s := range slots {
			if s.Name == f.slot {
				plugin = s.Plugin
			}
		}
	}
	if plugin == "pgoutput" {
		return "", errors.New("pgoutput writes no text: see examples/quickstart for it")
	}
	return plugin, nil
}

func (f flags) subscription(plugin string) []walchan.Option {
	opts := []walchan.Option{walchan.WithSlot(f.slot), walchan.WithPlugin(plugin, f.options),
		walchan.WithStatusInterval(time.Duration(f.statusSecs) * time.Second), walchan.WithConnect(qualifyNames)}
	if f.startpos != 0 {
		opts = append(opts, walchan.WithFrom(f.startpos))
	}
	if f.endpos != 0 {
		opts = append(opts, walchan.WithUntil(f.endpos))
	}
	if f.noLoop {
		opts = append(opts, walchan.WithRetry(func() backoff.BackOff { return &backoff.StopBackOff{} }))
	} else {
		opts = append(opts, walchan.WithWaitForSlot()) // the server may not know yet that our predecessor was killed
	}
	if !f.verbose {
		opts = append(opts, walchan.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	}
	return opts
}

// qualifyNames has the plugin write the names of types with their schema, as PostgreSQL's own programs do
// (ALWAYS_SECURE_SEARCH_PATH_SQL in src/bin/pg_basebackup/streamutil.c).
func qualifyNames(_ context.Context, cfg *pgconn.Config) error {
	cfg.RuntimeParams["search_path"] = ""
	return nil
}

// manyMessages are made safe before the interval is over: the stream stops at a million that are not acknowledged.
const manyMessages = 1 << 16

// receive writes messages as they come, and acknowledges them when they are safe: every few seconds, and at the end.
func receive(ctx context.Context, f flags, plugin string, out *output) error {
	stream, err := walchan.Subscribe(ctx, f.dsn, f.subscription(plugin)...)
	if err != nil {
		return err
	}
	defer stream.Close()
	reopen := make(chan os.Signal, 1)
	signal.Notify(reopen, syscall.SIGHUP)
	defer signal.Stop(reopen)
	due := time.NewTicker(max(1, time.Duration(f.fsyncSeconds)) * time.Second)
	defer due.Stop()

	var last walchan.Message // written, and perhaps not safe
	written := 0
	safe := func() error {
		if err := out.sync(); err != nil {
			return err
		}
		stream.AckThrough(last)
		written = 0
		return nil
	}
	for {
		select {
		case msg, open := <-stream.C():
			if !open {
				if err := safe(); err != nil {
					return err
				}
				return errors.Join(stream.Err(), stream.Close())
			}
			err = out.line(msg.Payload())
			last = msg
			switch written++; {
			case err != nil:
			case written == manyMessages:
				err = safe()
			case len(stream.C()) == 0:
				err = out.flush() // no more for now
			}
		case <-due.C:
			err = safe()
		case <-reopen:
			if err = safe(); err == nil {
				err = out.reopen()
			}
		}
		if err != nil {
			return err
		}
	}
}
