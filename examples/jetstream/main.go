// Jetstream publishes the changes of a PostgreSQL database to NATS JetStream, each of them once, and prints them as a consumer
// gets them:
//
//	go run ./examples/jetstream -dsn postgres://localhost/shop -publication shop -nats nats://localhost:4222
//
// The rows that exist come first, when the slot is made. Without -nats it starts a server in this process, which keeps what
// it has in the directory -store.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/jetstream"
)

type flags struct{ dsn, slot, publication, nats, store, stream string }

func main() {
	var f flags
	flag.StringVar(&f.dsn, "dsn", "", "connection string of the `database` (default: what PGHOST etc. say)")
	flag.StringVar(&f.slot, "slot", "jetstream", "`name` of the replication slot, which is made if it is missing")
	flag.StringVar(&f.publication, "publication", "jetstream", "`name` of the publication that says which tables")
	flag.StringVar(&f.nats, "nats", "", "`URL` of a NATS server with JetStream (default: one in this process)")
	flag.StringVar(&f.store, "store", "jetstream-data", "`directory` of the server in this process")
	flag.StringVar(&f.stream, "stream", "CHANGES", "`name` of the stream of JetStream, which is made if it is missing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for what is in hand
	if err := run(ctx, f, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "jetstream:", err)
		os.Exit(1)
	}
}

// run publishes, and prints what is published, until ctx ends.
func run(ctx context.Context, f flags, out io.Writer) error {
	if f.nats == "" {
		srv, err := serve(f.store)
		if err != nil {
			return err
		}
		defer srv.WaitForShutdown()
		defer srv.Shutdown()
		f.nats = srv.ClientURL()
	}
	nc, err := nats.Connect(f.nats, nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	return publish(ctx, f, nc, out)
}

const grace = 10 * time.Second

func publish(ctx context.Context, f flags, nc *nats.Conn, out io.Writer) error {
	sink, err := jetstream.Open(ctx, nc, f.stream, jetstream.WithCreateStream(nil))
	if err != nil {
		return err
	}
	stop, err := consume(ctx, f, nc, out)
	if err != nil {
		return err
	}
	defer stop()
	stream, err := walchan.Subscribe(ctx, f.dsn, walchan.WithSlot(f.slot), walchan.WithCreateSlot(), walchan.WithSnapshot(),
		walchan.WithPublication(f.publication), walchan.WithCheckpointFrom(sink.Checkpoint), walchan.WithDrainTimeout(grace))
	if err != nil {
		return err
	}
	g := pipeline.New(ctx, stream, grace)
	batches := pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 1000, Bytes: 8 << 20, Wait: 10 * time.Millisecond})
	pipeline.Into(g, batches, pipeline.Retry(sink, pipeline.RetryPolicy{}))
	return g.Wait()
}

// consume prints what comes into the stream from now on. Whoever does more than look makes a durable consumer.
func consume(ctx context.Context, f flags, nc *nats.Conn, out io.Writer) (stop func(), err error) {
	js, err := natsjs.New(nc)
	if err != nil {
		return nil, err
	}
	c, err := js.OrderedConsumer(ctx, f.stream, natsjs.OrderedConsumerConfig{DeliverPolicy: natsjs.DeliverNewPolicy})
	if err != nil {
		return nil, fmt.Errorf("consume %s: %w", f.stream, err)
	}
	running, err := c.Consume(func(m natsjs.Msg) {
		if !strings.HasSuffix(m.Subject(), ".progress") { // a checkpoint of the sink, and no change
			fmt.Fprintf(out, "%s %s\n", m.Subject(), m.Data())
		}
	})
	if err != nil {
		return nil, fmt.Errorf("consume %s: %w", f.stream, err)
	}
	return func() {
		running.Stop()
		<-running.Closed()
	}, nil
}

// serve starts a NATS server in this process.
func serve(store string) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: store, NoSigs: true})
	if err != nil {
		return nil, fmt.Errorf("start a NATS server: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		return nil, errors.New("start a NATS server: it takes too long")
	}
	return srv, nil
}
