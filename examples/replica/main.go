// Replica keeps tables of one PostgreSQL database equal to those of another one:
//
//	go run ./examples/replica -source postgres://localhost/shop -publication shop -target postgres://elsewhere/shop
//
// The tables must be in the target, with the same columns and primary keys. With -snapshot, the rows that exist are copied first,
// if the slot has to be made; without, the target must have what the source had when the slot was made. Each transaction is
// applied once, as a whole, whenever the process is stopped or killed: its checkpoint is stored in the target, with the rows.
//
// If the source or the target has lost changes, as after a restore or a fail-over, replica ends with an error, and so does every
// later one, until the tables are copied again.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/postgres"
)

type flags struct {
	source, target, slot, publication string
	snapshot                          bool
	report                            time.Duration
}

func main() {
	var f flags
	flag.StringVar(&f.source, "source", "", "connection string of the `database` that is copied")
	flag.StringVar(&f.target, "target", "", "connection string of the `database` that is the copy")
	flag.StringVar(&f.slot, "slot", "replica", "`name` of the replication slot, which is made if it is missing")
	flag.StringVar(&f.publication, "publication", "replica", "`name` of the publication that says which tables")
	flag.BoolVar(&f.snapshot, "snapshot", false, "if the slot has to be made, copy the rows that exist first: it empties the tables in the target")
	flag.DurationVar(&f.report, "report", 10*time.Second, "say how far it is at this `interval`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for what is in hand
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "replica:", err)
		os.Exit(1)
	}
}

const grace = 30 * time.Second

// run applies changes until ctx ends.
func run(ctx context.Context, f flags) error {
	sink, err := postgres.Open(ctx, f.target, postgres.WithEmptying())
	if err != nil {
		return err
	}
	defer sink.Close()
	opts := []walchan.Option{walchan.WithSlot(f.slot), walchan.WithCreateSlot(), walchan.WithPublication(f.publication),
		walchan.WithTransactions(), walchan.WithCheckpointFrom(sink.Checkpoint), walchan.WithDrainTimeout(grace)}
	if f.snapshot {
		opts = append(opts, walchan.WithSnapshot())
	}
	stream, err := walchan.Subscribe(ctx, f.source, opts...)
	if err != nil {
		return err
	}
	counted := pipeline.Count(sink)
	g := pipeline.New(ctx, stream, grace)
	whole := pipeline.Transactions(g, g.Source(), pipeline.Limit{})
	batches := pipeline.Concat(g, pipeline.Batch(g, whole, pipeline.Limit{Items: 1000, Bytes: 8 << 20}))
	pipeline.Into(g, batches, pipeline.Retry(counted, pipeline.RetryPolicy{}))

	reporting, stop := context.WithCancel(ctx)
	defer stop()
	go report(reporting, f.report, stream, counted)
	return g.Wait()
}

// report says how far it is, until ctx ends.
func report(ctx context.Context, interval time.Duration, stream *walchan.Stream, sink *pipeline.Counter[walchan.Message]) {
	every := time.NewTicker(interval)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			source, target := stream.Stats(), sink.Stats()
			slog.Info("replica", "source", source.State, "behind", source.LagBytes, "applied", target.Items, "failing", target.Err)
		case <-ctx.Done():
			return
		}
	}
}
