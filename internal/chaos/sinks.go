package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/jetstream"
	"github.com/walchan/walchan/pipeline/kafka"
	"github.com/walchan/walchan/pipeline/postgres"
)

// The sinks, by the name of their slot. Each is run by a child: its process is killed, and so is what it writes to.
var sinks = map[string]func(context.Context, childOrder) (sink, error){
	"files":     openFiles,
	"writer":    openWriter,
	"postgres":  openPostgres,
	"jetstream": openJetStream,
	"kafka":     openKafka,
}

type (
	message = walchan.Message
	sink    = pipeline.Sink[message]
)

// What a sink writes, where the format is ours to choose, is what a journal has: see content.

func openFiles(_ context.Context, order childOrder) (sink, error) {
	line := func(b []byte, m message) ([]byte, error) {
		s := seeMessage(m)
		return fmt.Appendf(b, "%d\t%s\t%s\n", order.Life, s.position, s.content), nil
	}
	return pipeline.OpenFiles(order.Target, line, pipeline.FileLimit{Bytes: 1 << 20})
}

// openWriter cuts off what the last life may have left of a line: with a Writer that is its user's business.
func openWriter(_ context.Context, order childOrder) (sink, error) {
	j, err := openJournal(order.Target)
	if err != nil {
		return nil, err
	}
	return pipeline.NewWriter(j.file, func(b []byte, m message) ([]byte, error) { return seeMessage(m).append(b), nil }), nil
}

func openPostgres(ctx context.Context, order childOrder) (sink, error) {
	return postgres.Open(ctx, order.Target, postgres.WithLogger(logger))
}

type contents struct{}

func (contents) Append(b []byte, m message) ([]byte, error) { return append(b, content(m)...), nil }

// natsStream is another one in each generation.
func natsStream(generation int) string { return fmt.Sprint("CHAOS", generation) }

// openJetStream has a server that recognises repetitions by itself for a moment only: what repeats is to be seen.
func openJetStream(ctx context.Context, order childOrder) (sink, error) {
	nc, err := nats.Connect(order.Target, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(2*time.Second))
	if err != nil {
		return nil, err
	}
	short := func(c *natsjs.StreamConfig) { c.Duplicates = 100 * time.Millisecond }
	s, err := jetstream.Open(ctx, nc, natsStream(order.Generation), jetstream.WithCreateStream(short), jetstream.WithEncoder(contents{}), jetstream.WithLogger(logger))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return s, nil
}

// openKafka dials the proxy, whatever address the broker says it has.
func openKafka(ctx context.Context, order childOrder) (sink, error) {
	var dialer net.Dialer
	client, err := kgo.NewClient(kgo.SeedBrokers(order.Target), kgo.ProducerLinger(0),
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, order.Target)
		}),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return nil, err
	}
	s, err := kafka.Open(ctx, client, kafka.WithUnkeyed(), kafka.WithKey(func(r *walchan.Relation) []string {
		if r.ReplicaIdentity == walchan.ReplicaIdentityFull {
			return []string{"id"}
		}
		return nil
	}))
	if err != nil {
		client.Close()
		return nil, err
	}
	return s, nil
}

// soon is a policy that is tried again soon.
var soon = pipeline.RetryPolicy{Logger: logger, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(50 * time.Millisecond) }}

// grace is how long a sink may take for what is in flight when it is told to stop.
const grace = 20 * time.Second

// runSink is a child that has a sink: it writes until SIGTERM, in batches that are others in each life.
func runSink(ctx context.Context, order childOrder) error {
	s, err := openAgain(ctx, order)
	if err != nil {
		return err
	}
	safe := pipeline.DeadLetter(pipeline.Retry(pipeline.Timeout(tell(s), 10*time.Second), soon), pipeline.SinkFunc[pipeline.Dead[message]](refuse))
	opts := []walchan.Option{walchan.WithTransactions(), walchan.WithDrainTimeout(grace)}
	if c, ok := safe.(pipeline.Checkpointer[message]); ok {
		from, err := fromOf(ctx, order, c)
		if err != nil {
			return err
		}
		opts = append(opts, walchan.WithCheckpointFrom(c.Checkpoint), walchan.WithFrom(from))
	}
	stream, err := subscribeAgain(ctx, order, opts...)
	if err != nil {
		return err
	}
	defer stream.Close()
	rng := rand.New(rand.NewPCG(order.Seed, 0))
	g := pipeline.New(ctx, stream, grace)
	in := g.Source()
	var batches <-chan pipeline.Item[[]message]
	if rng.IntN(2) == 0 {
		whole := pipeline.Transactions(g, in, pipeline.Limit{})
		batches = pipeline.Concat(g, pipeline.Batch(g, whole, pipeline.Limit{Items: 1 + rng.IntN(50)}))
	} else {
		batches = pipeline.Batch(g, in, pipeline.Limit{Items: 1 + rng.IntN(2000)})
	}
	pipeline.Into(g, batches, safe)
	return g.Wait()
}

// fromOf returns what a person says: that the target is a copy as of a position, or that nothing is lost up to one; 0 if nothing.
func fromOf(ctx context.Context, order childOrder, c pipeline.Checkpointer[message]) (walchan.LSN, error) {
	stored, err := c.Checkpoint(ctx)
	for ; err != nil && ctx.Err() == nil; stored, err = c.Checkpoint(ctx) { // the target is down
		logger.Warn("read the checkpoint", "error", err)
		sleep(ctx, 100*time.Millisecond)
	}
	switch {
	case err != nil:
		return 0, err
	case stored.IsZero():
		return walchan.ParseLSN(order.Origin)
	case order.From != "":
		return walchan.ParseLSN(order.From)
	}
	return 0, nil
}

// refuse is given what a sink refuses. That may be a TRUNCATE, for which Kafka has no record.
func refuse(_ context.Context, dead []pipeline.Dead[message]) error {
	if errors.Is(dead[0].Err, kafka.ErrTruncate) {
		return nil
	}
	return dead[0].Err
}

// openAgain tries again where what the sink writes to is down.
func openAgain(ctx context.Context, order childOrder) (sink, error) {
	for {
		s, err := sinks[order.Slot](ctx, order)
		if err == nil {
			return s, nil
		}
		for _, kind := range []error{jetstream.ErrStream, jetstream.ErrForeign, jetstream.ErrLost, ctx.Err()} {
			if kind != nil && errors.Is(err, kind) {
				return nil, err
			}
		}
		logger.Warn("open", "error", err)
		sleep(ctx, 100*time.Millisecond)
	}
}

// tell says which markers the sink has.
func tell(s sink) sink {
	t := telling{s}
	if c, ok := s.(pipeline.Checkpointer[message]); ok {
		return tellingCheckpointer{t, c}
	}
	return t
}

type telling struct{ sink }

func (t telling) Write(ctx context.Context, batch []message) error {
	return t.after(batch, t.sink.Write(ctx, batch))
}

func (t telling) after(batch []message, err error) error {
	if err != nil {
		return err
	}
	fmt.Println(progress)
	for _, m := range batch {
		if m.Relation == nil || m.Relation.Name != "marker" {
			continue
		}
		if n, ok := markerIn(content(m)); ok {
			fmt.Println(n)
		}
	}
	return nil
}

type tellingCheckpointer struct {
	telling
	checkpointer pipeline.Checkpointer[message]
}

func (t tellingCheckpointer) Checkpoint(ctx context.Context) (walchan.Checkpoint, error) {
	return t.checkpointer.Checkpoint(ctx)
}

func (t tellingCheckpointer) WriteCheckpoint(ctx context.Context, batch []message, c walchan.Checkpoint) error {
	return t.after(batch, t.checkpointer.WriteCheckpoint(ctx, batch, c))
}
