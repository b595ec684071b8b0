// Quickstart prints PostgreSQL's write-ahead log as it comes out of a channel.
//
// Without flags it starts a throwaway server, lets a small shop write into it, and ends when the shop closes:
//
//	go run ./examples/quickstart
//
// With -dsn it looks at a server of yours, which needs wal_level = logical and a role that may replicate:
//
//	go run ./examples/quickstart -dsn postgres://localhost/mydb -table orders,customers
//
// Unless it is told a slot and a publication it makes its own, and drops them when it ends (but not when it is killed).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/walchan/walchan"
)

type flags struct {
	dsn          string
	slot         string
	createSlot   bool
	tables       list
	publications list
	plugin       string
	n            int
	json         bool
}

func main() {
	f := flags{json: !isTerminal(os.Stdout)}
	flag.StringVar(&f.dsn, "dsn", "", "connection string of your `server`, a URL or keywords (default: a throwaway server)")
	flag.StringVar(&f.slot, "slot", "", "`name` of the replication slot to read from (default: a temporary one, that begins now)")
	flag.BoolVar(&f.createSlot, "create-slot", false, "create that slot if it is missing; it stays until somebody drops it")
	flag.Var(&f.tables, "table", "`tables` to look at, separated by commas; makes a publication for the time being")
	flag.Var(&f.publications, "publication", "publications to look at, by `name`, separated by commas")
	flag.StringVar(&f.plugin, "plugin", "", "`name` of another output plugin, such as test_decoding: prints what it writes")
	flag.IntVar(&f.n, "n", 0, "stop after this `number` of messages")
	flag.BoolVar(&f.json, "json", f.json, "print JSON, one line a message: the default unless to a terminal")
	flag.Parse()

	// SIGPIPE too: when the reader has seen enough (quickstart | head), writing fails, and we end as after Ctrl-C.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run opens the source, streams from it and closes it, whatever happens.
func run(ctx context.Context, f flags) error {
	src, err := open(ctx, f)
	if err == nil {
		err = stream(ctx, f, src)
	}
	if ctx.Err() != nil || errors.Is(err, errEnough) || errors.Is(err, syscall.EPIPE) {
		err = nil // so it was meant to end
	}
	return errors.Join(err, src.close())
}

// A source is where changes come from.
type source struct {
	dsn      string
	options  []walchan.Option
	greeting string                      // for when the stream has begun
	work     func(context.Context) error // to be done while streaming
	last     func(walchan.Message) bool  // whether no message follows
	close    func() error
}

func open(ctx context.Context, f flags) (source, error) {
	nothing := source{close: func() error { return nil }}
	switch {
	case flag.NArg() > 0:
		return nothing, fmt.Errorf("%q is not a flag: name the server with -dsn, tables with -table", flag.Arg(0))
	case f.dsn != "":
		return openServer(ctx, f)
	case f.slot != "" || len(f.tables) > 0 || len(f.publications) > 0 || f.plugin != "":
		return nothing, errors.New("which server? Name it with -dsn")
	}
	return openShop(ctx)
}

// stream streams and works at once. What ends first ends the other.
func stream(ctx context.Context, f flags, src source) error {
	seen := newTally()
	show := newPrinter(f, os.Stdout)
	if !f.json && f.plugin == "" {
		src.options = append(src.options, walchan.WithTransactions())
	}
	g, ctx := errgroup.WithContext(ctx)
	stream, err := walchan.Subscribe(ctx, src.dsn, src.options...)
	if errors.Is(err, walchan.ErrSlotMissing) {
		return fmt.Errorf("%w (here: -create-slot)", err)
	}
	if err != nil {
		return err
	}
	note("%s", src.greeting)
	g.Go(func() error { return src.work(ctx) })
	g.Go(func() error {
		return watch(stream, show, func(msg walchan.Message) bool {
			seen.add(msg)
			return src.last(msg) || f.n > 0 && seen.messages == f.n
		})
	})
	defer func() { note("%s", seen) }()
	return g.Wait()
}

var errEnough = errors.New("enough was seen")

// watch is how to use walchan: receive, do something, acknowledge.
func watch(stream *walchan.Stream, show func(walchan.Message) error, enough func(walchan.Message) bool) error {
	defer stream.Close()
	for msg := range stream.C() {
		if err := show(msg); err != nil {
			return err
		}
		stream.Ack(msg)
		if enough(msg) {
			return errEnough
		}
	}
	return stream.Err()
}

// note tells the person at the terminal something, apart from the output.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// list is a flag of several values.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}
