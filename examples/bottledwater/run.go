package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
)

// ourPublication is the one that is made unless one is named.
const ourPublication = "bottledwater"

func run(ctx context.Context, f flags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	exists, err := slotExists(ctx, f) // first, for its errors say what to do
	if err != nil {
		return err
	}
	tables, database, err := look(ctx, f)
	if err != nil {
		return err
	}
	if f.schemaOnly {
		for _, t := range tables {
			fmt.Printf("%s\n", t.AppendJSON(nil))
		}
		return nil
	}
	if err := checkKeys(tables, f.allowUnkeyed); err != nil {
		return err
	}
	noteCasts(tables)

	out, err := openOutput(f, exists)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.close()) }()
	form, err := newFormat(f.format, database, out)
	if err != nil {
		return err
	}
	stream, err := subscribe(ctx, f)
	if err != nil {
		return err
	}
	defer stream.Close()
	x := &exporter{out: out, format: form, skip: f.onError == "log", allowUnkeyed: f.allowUnkeyed, bar: newBar(os.Stderr)}
	return x.run(stream)
}

// subscribe streams from the publication that is named, or else from ours, which it makes. If there is no stream, what it made goes again.
func subscribe(ctx context.Context, f flags) (*walchan.Stream, error) {
	if f.publication != "" {
		return streamFrom(ctx, f, f.publication)
	}
	conn, err := admin.Connect(ctx, f.dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	created, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: ourPublication,
		Tables: admin.Tables(f.tables...), AllTables: len(f.tables) == 0, AllowUnkeyed: f.allowUnkeyed})
	if errors.Is(err, walchan.ErrTableKey) {
		err = fmt.Errorf("%w (here: -allow-unkeyed)", err)
	}
	if err != nil {
		return nil, err
	}
	stream, err := streamFrom(ctx, f, ourPublication)
	if err != nil && created {
		err = errors.Join(err, conn.DropPublication(context.WithoutCancel(ctx), ourPublication))
	}
	return stream, err
}

func streamFrom(ctx context.Context, f flags, publication string) (*walchan.Stream, error) {
	opts := []walchan.Option{
		walchan.WithSlot(f.slot), walchan.WithPublication(publication), walchan.WithConnect(inUTC),
	}
	if f.createSlot {
		opts = append(opts, walchan.WithCreateSlot())
	}
	if f.snapshot {
		opts = append(opts, walchan.WithSnapshot(), walchan.WithSnapshotJobs(f.jobs))
	}
	if f.format != "debezium" {
		opts = append(opts, walchan.WithTransactions())
	}
	if f.format == "json" || f.format == "avro" { // which do not know of logical messages
		opts = append(opts, walchan.WithPluginOption("messages", "false"))
	}
	stream, err := walchan.Subscribe(ctx, f.dsn, opts...)
	if errors.Is(err, walchan.ErrSlotMissing) {
		err = fmt.Errorf("%w (here: -create-slot, and -initial-snapshot for the rows that exist)", err)
	}
	return stream, err
}

func slotExists(ctx context.Context, f flags) (bool, error) {
	conn, err := admin.Connect(ctx, f.dsn)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	slots, err := conn.Slots(ctx)
	return slices.ContainsFunc(slots, func(s admin.Slot) bool { return s.Name == f.slot }), err
}

// inUTC has timestamps come in UTC, whatever the server's or the role's time zone, unless the connection string has another.
func inUTC(_ context.Context, cfg *pgconn.Config) error {
	for name := range cfg.RuntimeParams {
		if strings.EqualFold(name, "timezone") {
			return nil
		}
	}
	cfg.RuntimeParams["timezone"] = "UTC"
	return nil
}

// checkKeys names the tables without a key, unless they are allowed.
func checkKeys(tables []table, allowed bool) error {
	var unkeyed []string
	for _, t := range tables {
		if !t.keyed {
			unkeyed = append(unkeyed, t.quoted)
		}
	}
	switch {
	case len(unkeyed) == 0:
	case allowed:
		note("while they are published the server refuses to UPDATE and DELETE in tables without a key: %s", strings.Join(unkeyed, ", "))
	default:
		return fmt.Errorf("%w: %s; give them a primary key or a REPLICA IDENTITY, choose others (-tables), or allow them (-allow-unkeyed)",
			errUnkeyed, strings.Join(unkeyed, ", "))
	}
	return nil
}

var errUnkeyed = errors.New("tables without a key")

// noteCasts names the columns whose values row_to_json would hand to somebody's function.
func noteCasts(tables []table) {
	var columns []string
	for _, t := range tables {
		for _, c := range t.casts {
			columns = append(columns, t.quoted+"."+c)
		}
	}
	if len(columns) > 0 {
		note("these columns are strings, though their types have casts to json: %s", strings.Join(columns, ", "))
	}
}
