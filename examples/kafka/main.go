// Kafka writes the tables of a PostgreSQL database to Kafka, one topic a table, as bottledwater did:
//
//	go run ./examples/kafka -dsn postgres://localhost/shop -publication shop -brokers localhost:9092 -registry http://localhost:8081
//
// The rows that exist come first, when the slot is made. With a schema registry keys and rows are in Avro, without one in
// JSON. Without -brokers it starts a fake broker in this process, which forgets all when it ends, and says where it is.
//
// What bottledwater could be told: -topic-prefix, -allow-unkeyed, -on-error, -skip-snapshot.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/kafka"
)

type flags struct {
	dsn, slot, publication, brokers, registry, prefix, onError string
	unkeyed, skipSnapshot                                      bool
}

func main() {
	var f flags
	flag.StringVar(&f.dsn, "dsn", "", "connection string of the `database` (default: what PGHOST etc. say)")
	flag.StringVar(&f.slot, "slot", "kafka", "`name` of the replication slot, which is made if it is missing")
	flag.StringVar(&f.publication, "publication", "kafka", "`name` of the publication that says which tables")
	flag.StringVar(&f.brokers, "brokers", "", "`addresses` of brokers, separated by commas (default: a fake one in this process)")
	flag.StringVar(&f.registry, "registry", "", "`URL` of a schema registry, for Avro (default: JSON)")
	flag.StringVar(&f.prefix, "topic-prefix", "", "`prefix` of the topics' names, before a dot")
	flag.StringVar(&f.onError, "on-error", "exit", "what to do about a row that cannot be written: exit or log")
	flag.BoolVar(&f.unkeyed, "allow-unkeyed", false, "write tables without a key, too")
	flag.BoolVar(&f.skipSnapshot, "skip-snapshot", false, "leave out the rows that exist")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for what is in hand
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

const grace = 10 * time.Second

// run writes until ctx ends.
func run(ctx context.Context, f flags) error {
	if f.onError != "exit" && f.onError != "log" {
		return errors.New("-on-error is exit or log")
	}
	if f.brokers == "" {
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation())
		if err != nil {
			return fmt.Errorf("start a fake broker: %w", err)
		}
		defer fake.Close()
		f.brokers = strings.Join(fake.ListenAddrs(), ",")
		slog.Info("a fake broker is at", "brokers", f.brokers)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(f.brokers, ",")...), kgo.AllowAutoTopicCreation())
	if err != nil {
		return fmt.Errorf("make a client of Kafka: %w", err)
	}
	defer client.Close()
	sink, err := open(ctx, f, client)
	if err != nil {
		return err
	}
	return write(ctx, f, sink)
}

// open makes the sink, with what goes around it.
func open(ctx context.Context, f flags, client *kgo.Client) (pipeline.Sink[walchan.Message], error) {
	var opts []kafka.Option
	if f.prefix != "" {
		opts = append(opts, kafka.WithPrefix(f.prefix))
	}
	if f.unkeyed {
		opts = append(opts, kafka.WithUnkeyed())
	}
	if f.registry != "" {
		registry, err := sr.NewClient(sr.URLs(f.registry))
		if err != nil {
			return nil, fmt.Errorf("make a client of the registry: %w", err)
		}
		opts = append(opts, kafka.WithAvro(registry))
	}
	sink, err := kafka.Open(ctx, client, opts...)
	if err != nil {
		return nil, err
	}
	safe := pipeline.Retry(sink, pipeline.RetryPolicy{})
	if f.onError == "log" {
		safe = pipeline.Skip(safe, nil)
	}
	return safe, nil
}

func write(ctx context.Context, f flags, sink pipeline.Sink[walchan.Message]) error {
	opts := []walchan.Option{walchan.WithSlot(f.slot), walchan.WithCreateSlot(), walchan.WithPublication(f.publication), walchan.WithDrainTimeout(grace)}
	if !f.skipSnapshot {
		opts = append(opts, walchan.WithSnapshot())
	}
	stream, err := walchan.Subscribe(ctx, f.dsn, opts...)
	if err != nil {
		return err
	}
	g := pipeline.New(ctx, stream, grace)
	batches := pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 1000, Bytes: 8 << 20, Wait: 10 * time.Millisecond})
	pipeline.Into(g, batches, sink)
	return g.Wait()
}
