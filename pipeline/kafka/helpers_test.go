package kafka_test

import (
	"context"
	"flag"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/kafka"
	"github.com/walchan/walchan/walchantest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(pgtest.Run(m, isOurs))
}

// isOurs recognises goroutines of the sink, of a pipeline or of a client.
func isOurs(stack string) bool {
	return strings.Contains(stack, "pkg/kgo") || strings.Contains(stack, "walchan/pipeline.") || strings.Contains(stack, "pipeline/kafka.") || strings.Contains(stack, "walchan.(*Stream)")
}

var (
	quiet = slog.New(slog.DiscardHandler)
	soon  = pipeline.RetryPolicy{Logger: quiet, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(20 * time.Millisecond) }}
	items = walchantest.NewTable("items", "id int primary key", "v text")
)

// cluster is a fake cluster in the process, whose connections can be cut.
type cluster struct {
	*kfake.Cluster
	mu    sync.Mutex
	conns []net.Conn
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{}
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(4),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			return listener{l, c}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	c.Cluster = fake
	t.Cleanup(fake.Close)
	return c
}

type listener struct {
	net.Listener
	of *cluster
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.of.mu.Lock()
		defer l.of.mu.Unlock()
		l.of.conns = append(l.of.conns, conn)
	}
	return conn, err
}

// cut ends all connections, whatever is on its way.
func (c *cluster) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func client(t testing.TB, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...), kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.MetadataMinAge(20 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func open(t testing.TB, addrs []string, opts ...kafka.Option) *kafka.Sink {
	t.Helper()
	sink, err := kafka.Open(t.Context(), client(t, addrs), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// records returns all records of a topic, those of a partition in their order.
func records(t testing.TB, addrs []string, topic string) (all []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl := client(t, addrs, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	for int64(len(all)) < want {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%s has %d records, of which %d come: %v", topic, want, len(all), fetches.Errors())
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

// byKey lists the values of each key, in order.
func byKey(all []*kgo.Record) map[string]string {
	keys := map[string][]string{}
	for _, r := range all {
		keys[string(r.Key)] = append(keys[string(r.Key)], string(r.Value))
	}
	joined := map[string]string{}
	for k, vs := range keys {
		joined[k] = strings.Join(vs, " ")
	}
	return joined
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}
