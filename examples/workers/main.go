// Workers handles the rows that are inserted into a table, several at once, and acknowledges each when it is done, in whatever
// order that is:
//
//	go run ./examples/workers -dsn postgres://localhost/mydb -publication jobs -slot jobs
//
// Rows of one key are handled one after the other. What was not done when the process ends, or is killed, comes again.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

func main() {
	dsn := flag.String("dsn", "", "connection string of the `server` (default: what PGHOST etc. say)")
	slot := flag.String("slot", "jobs", "`name` of the replication slot, which is made if it is missing")
	publication := flag.String("publication", "jobs", "`name` of the publication, of a table with jobs")
	workers := flag.Int("workers", 8, "`number` of jobs that are handled at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for what is in hand
	stream, err := walchan.Subscribe(ctx, *dsn, walchan.WithSlot(*slot), walchan.WithCreateSlot(), walchan.WithPublication(*publication),
		walchan.WithDrainTimeout(grace))
	if err == nil {
		err = work(ctx, stream, *workers, handle, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workers:", err)
		os.Exit(1)
	}
}

// grace is how long the jobs that are being handled may go on after Ctrl-C.
const grace = 30 * time.Second

// work handles jobs until ctx ends, and then those it has begun.
func work(ctx context.Context, stream *walchan.Stream, workers int, handle func(context.Context, walchan.Row) (string, error), out io.Writer) error {
	g := pipeline.New(ctx, stream, grace)
	inserts := pipeline.Filter(g, g.Source(), func(m walchan.Message) bool { return m.Kind == walchan.Insert })
	done := pipeline.Keyed(g, inserts, workers, pipeline.ByKey, func(ctx context.Context, m walchan.Message) (string, error) {
		return handle(ctx, m.New())
	})
	for job := range done {
		fmt.Fprintln(out, job.Value)
		job.Ack()
	}
	return g.Wait()
}

// handle is where the work would be: a mail is sent, an image scaled.
func handle(ctx context.Context, job walchan.Row) (string, error) {
	select {
	case <-time.After(100 * time.Millisecond):
		return "done: job " + job.Text(0), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
