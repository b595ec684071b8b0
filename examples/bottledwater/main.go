// Bottledwater exports a database as a stream of changes, as bottledwater-pg did, without an extension on the server: all
// rows that exist, if asked for, and then every change, in bottledwater's JSON, in Avro, in Debezium's envelope or in wal2json's
// format.
//
//	bottledwater -dsn postgres://localhost/mydb -slot bottledwater -create-slot -initial-snapshot -o mydb.json
//
// It runs until it is stopped (Ctrl-C, SIGTERM), and started again it goes on where it was: what the slot has confirmed is in
// the file. After a crash the last transactions may be in the file twice, each beginning with its BEGIN.
//
// The tables are those of a publication, which is made if it is missing: for all tables, also those made later, or for those
// that -tables names. While a table without a primary key (or another REPLICA IDENTITY) is published the server refuses
// to UPDATE or DELETE its rows. So such tables are refused, unless allowed by -allow-unkeyed.
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
)

type flags struct {
	dsn, slot, publication   string
	format, out, onError     string
	tables                   list
	createSlot, snapshot     bool
	skipSnapshot             bool
	allowUnkeyed, schemaOnly bool
	jobs                     int
}

func main() {
	var f flags
	flag.StringVar(&f.dsn, "dsn", "", "connection string of the `database`: a URL or keywords")
	flag.StringVar(&f.slot, "slot", "bottledwater", "`name` of the replication slot")
	flag.StringVar(&f.publication, "publication", "", "`name` of a publication that exists (default: \"bottledwater\", which is made for -tables)")
	flag.StringVar(&f.format, "format", "json", "json, avro, debezium or wal2json")
	flag.BoolVar(&f.createSlot, "create-slot", false, "create the slot if it is missing; it stays until somebody drops it")
	flag.BoolVar(&f.snapshot, "initial-snapshot", false, "begin with the rows that exist. With -create-slot, only if the slot is missing")
	flag.BoolVar(&f.skipSnapshot, "skip-snapshot", false, "begin with the changes: the default, said aloud")
	flag.IntVar(&f.jobs, "jobs", 2, "`number` of connections that read the rows of the snapshot")
	flag.Var(&f.tables, "tables", "`names` of tables, separated by commas (default: all)")
	flag.BoolVar(&f.allowUnkeyed, "allow-unkeyed", false, "export tables without a key, too")
	flag.StringVar(&f.onError, "on-error", "exit", "what to do with a row that cannot be exported: exit, or log its position and skip it")
	flag.StringVar(&f.out, "o", "", "`file` to append to, and to write to the disk before anything is confirmed (default: standard output)")
	flag.BoolVar(&f.schemaOnly, "schema", false, "print what bottledwater tells of the tables, and end")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) }) // a second Ctrl-C does not wait for what is in hand
	if err := run(ctx, f); err != nil && !errors.Is(err, syscall.EPIPE) {
		fmt.Fprintln(os.Stderr, "bottledwater:", err)
		os.Exit(1)
	}
}

func (f flags) check() error {
	var wrong []string
	choice := func(name, value string, choices ...string) {
		for _, c := range choices {
			if value == c {
				return
			}
		}
		wrong = append(wrong, fmt.Sprintf("-%s %s: not one of %s", name, value, strings.Join(choices, ", ")))
	}
	choice("format", f.format, "json", "avro", "debezium", "wal2json")
	choice("on-error", f.onError, "exit", "log")
	if f.dsn == "" {
		wrong = append(wrong, "which database? Name it with -dsn")
	}
	if f.slot == "" {
		wrong = append(wrong, "-slot must have a name")
	}
	if f.snapshot && f.skipSnapshot {
		wrong = append(wrong, "-initial-snapshot and -skip-snapshot: which?")
	}
	if f.publication != "" && len(f.tables) > 0 {
		wrong = append(wrong, "-tables are for a publication that is made here: leave out -publication, or choose the tables there")
	}
	if flag.NArg() > 0 {
		wrong = append(wrong, fmt.Sprintf("%q is not a flag", flag.Arg(0)))
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// list is a flag of several values.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}

// note tells the person at the terminal something, apart from the output.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "bottledwater: "+format+"\n", args...) }
