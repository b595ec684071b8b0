package jetstream_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/jetstream"
	"github.com/walchan/walchan/walchantest"
)

var natsURL = flag.String("nats", "", "`URL` of a NATS server with JetStream for the tests that can use any (default: one in the process)")

func TestMain(m *testing.M) {
	if os.Getenv(serverStore) != "" {
		serveUntilKilled()
	}
	flag.Parse()
	os.Exit(pgtest.Run(m, isOurs))
}

// isOurs recognises goroutines of the sink, of a pipeline or of a client.
func isOurs(stack string) bool {
	return strings.Contains(stack, "nats.go") || strings.Contains(stack, "walchan/pipeline.") || strings.Contains(stack, "walchan.(*Stream)")
}

var (
	quiet = slog.New(slog.DiscardHandler)
	soon  = pipeline.RetryPolicy{Logger: quiet, BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(20 * time.Millisecond) }}
	items = walchantest.NewTable("items", "id int primary key", "v text")
)

// run starts a server with JetStream in this process.
func run(store string, port int) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: store, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return nil, fmt.Errorf("the NATS server does not start")
	}
	return s, nil
}

// serve returns the URL of a server that lives as long as the test.
func serve(t testing.TB) string {
	t.Helper()
	if *natsURL != "" {
		return *natsURL
	}
	s, err := run(t.TempDir(), server.RANDOM_PORT)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s.ClientURL()
}

func dial(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// streamName is that of the test's stream, which goes with the test.
func streamName(t testing.TB, nc *nats.Conn) string {
	name := strings.ToUpper(strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' || r == '.' {
			return '_'
		}
		return r
	}, t.Name()))
	t.Cleanup(func() { api(t, nc).DeleteStream(context.Background(), name) })
	return name
}

func api(t testing.TB, nc *nats.Conn) natsjs.JetStream {
	t.Helper()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// short is a stream whose server recognises repetitions for a moment only.
func short(c *natsjs.StreamConfig) { c.Duplicates = 100 * time.Millisecond }

func open(t testing.TB, nc *nats.Conn, name string, opts ...jetstream.Option) *jetstream.Sink {
	t.Helper()
	sink, err := jetstream.Open(t.Context(), nc, name, append([]jetstream.Option{jetstream.WithCreateStream(short), jetstream.WithLogger(quiet)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func write(t testing.TB, sink pipeline.Sink[walchan.Message], batch []walchan.Message) {
	t.Helper()
	if err := sink.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// stored returns all messages of a stream.
func stored(t testing.TB, nc *nats.Conn, name string) (all []natsjs.Msg) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := api(t, nc).Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if stream.CachedInfo().State.Msgs == 0 {
		return nil
	}
	c, err := stream.OrderedConsumer(ctx, natsjs.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(natsjs.NextContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
		if meta.Sequence.Stream == stream.CachedInfo().State.LastSeq {
			return all
		}
	}
}

// envelope is what the tests look at of Debezium's.
type envelope struct {
	Op            string
	Before, After map[string]any
	Message       struct{ Prefix string }
	Source        struct{ DB string }
}

func parse(t testing.TB, m natsjs.Msg) (e envelope) {
	t.Helper()
	if err := json.Unmarshal(m.Data(), &e); err != nil {
		t.Fatalf("%s: %v", m.Data(), err)
	}
	return e
}

// ids lists "op id" of rows, in order.
func ids(t testing.TB, all []natsjs.Msg) string {
	var list []string
	for _, m := range all {
		e := parse(t, m)
		row := e.After
		if row == nil {
			row = e.Before
		}
		list = append(list, fmt.Sprintf("%s%v", e.Op, row["id"]))
	}
	return strings.Join(list, " ")
}

// checkpoint returns that of a message.
func checkpoint(t testing.TB, h nats.Header) walchan.Checkpoint {
	t.Helper()
	c, err := walchan.ParseCheckpoint(h.Get("Walchan-Checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// without leaves out the messages that have checkpoints alone.
func without(t testing.TB, all []natsjs.Msg) (rest []natsjs.Msg) {
	t.Helper()
	for _, m := range all {
		if !strings.HasSuffix(m.Subject(), ".progress") {
			rest = append(rest, m)
		} else if m.Headers().Get("Walchan-Checkpoint") == "" {
			t.Errorf("%s has no checkpoint", m.Subject())
		}
	}
	return rest
}

// The environment variables with the directory and port that turn the test binary into a NATS server.
const (
	serverStore = "WALCHAN_NATS_STORE"
	serverPort  = "WALCHAN_NATS_PORT"
)

func serveUntilKilled() {
	port, _ := strconv.Atoi(os.Getenv(serverPort))
	if _, err := run(os.Getenv(serverStore), port); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdin.Read(make([]byte, 1)) // until the test ends, however it does
	os.Exit(0)
}

// natsProcess is a NATS server that can be killed.
type natsProcess struct {
	t     testing.TB
	store string
	port  int
	cmd   *exec.Cmd
}

func startNATS(t testing.TB) *natsProcess {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &natsProcess{t: t, store: t.TempDir(), port: l.Addr().(*net.TCPAddr).Port}
	l.Close()
	p.start()
	t.Cleanup(p.kill)
	return p
}

func (p *natsProcess) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.port) }

func (p *natsProcess) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), serverStore+"="+p.store, fmt.Sprintf("%s=%d", serverPort, p.port))
	p.cmd.Stderr = p.t.Output()
	if _, err := p.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		nc, err := nats.Connect(p.url())
		if err == nil {
			_, err = api(p.t, nc).AccountInfo(p.t.Context())
			nc.Close()
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatal("the NATS server does not start")
		}
	}
}

// kill ends the server at once, as kill -9.
func (p *natsProcess) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}
