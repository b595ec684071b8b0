package kafka_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/kafka"
	"github.com/walchan/walchan/walchantest"
)

// Connections that are cut at any moment, and writes that time out, repeat nothing and lose nothing.
func TestConnectionsCut(t *testing.T) {
	const rows, keys = 20_000, 50
	c := startCluster(t)
	sink := pipeline.Retry(pipeline.Timeout(open(t, c.ListenAddrs()), 15*time.Millisecond), soon)
	var entries []walchantest.Entry
	for i := range rows {
		entries = append(entries, items.Insert(i%keys, fmt.Sprint(i/keys)))
	}
	msgs := walchantest.Messages(entries...)
	written := make(chan error, 1)
	go func() {
		for i := 0; i < rows; i += 500 {
			if err := sink.Write(t.Context(), msgs[i:i+500]); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for cuts := 0; ; cuts++ {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond): // any moment
			c.cut()
			continue
		}
		if cuts < 5 {
			t.Errorf("only %d cuts", cuts)
		}
		break
	}
	var want []string
	for n := range rows / keys {
		want = append(want, fmt.Sprint(n))
	}
	got := map[string][]string{}
	for _, r := range records(t, c.ListenAddrs(), "items") {
		var v struct{ V string }
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatal(err)
		}
		got[string(r.Key)] = append(got[string(r.Key)], v.V)
	}
	for k, vs := range got {
		if !slices.Equal(vs, want) {
			t.Errorf("%s has %d values: %.300v", k, len(vs), vs)
		}
	}
	if len(got) != keys {
		t.Errorf("%d keys", len(got))
	}
}

// The environment variables that turn the test binary into a process that writes.
const (
	writerSource = "WALCHAN_WRITER_SOURCE"
	writerKafka  = "WALCHAN_WRITER_KAFKA"
)

func writeUntilKilled() {
	err := func() error {
		ctx := context.Background()
		client, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv(writerKafka)), kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0),
			kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.MetadataMinAge(20*time.Millisecond))
		if err != nil {
			return err
		}
		stream := insist(func() (*walchan.Stream, error) {
			return walchan.Subscribe(ctx, os.Getenv(writerSource), walchan.WithSlot("s"), walchan.WithPublication("p"), walchan.WithWaitForSlot(), walchan.WithLogger(quiet))
		})
		sink := insist(func() (*kafka.Sink, error) { return kafka.Open(ctx, client) })
		return pump(ctx, stream, pipeline.Retry(sink, soon))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// insist calls f until it succeeds: its server may be down, as part of the test.
func insist[T any](f func() (T, error)) T {
	for {
		v, err := f()
		if err == nil {
			return v
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Processes that are killed at any moment and started again, a broker that is down for a while, connections to PostgreSQL that break and
// a PostgreSQL that crashes: what the topics say of each row is what the source has, and what is there again is recognised.
func TestKilledProcesses(t *testing.T) {
	const crashes = 12
	r := seeded(t)
	cluster := pgtest.Start(t)
	pgtest.Exec(t, cluster.DSN(), "CREATE TABLE items (id int PRIMARY KEY, v text)", "CREATE TABLE journal (n bigserial PRIMARY KEY)",
		"CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert, update, delete')", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	broker := startCluster(t)
	var clients sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for n := range 3 {
		r := rand.New(rand.NewPCG(r.Uint64(), uint64(n)))
		clients.Go(func() { traffic(ctx, cluster.DSN(), r) })
	}
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerSource+"="+cluster.DSN(), writerKafka+"="+broker.ListenAddrs()[0])
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	anyMoment := func() { time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond) }
	for n := range crashes {
		cmd := start()
		anyMoment()
		switch n % 4 {
		case 0:
			broker.crash(true)
			anyMoment()
			broker.crash(false)
		case 1, 3:
			pgtest.Exec(t, cluster.DSN(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
		case 2:
			if n%8 == 2 {
				cluster.Kill()
				if err := cluster.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		anyMoment()
		cmd.Process.Kill()
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the process ended by itself: %v", err)
		}
	}
	stop()
	clients.Wait()
	pgtest.Exec(t, cluster.DSN(), finish)
	if err := start().Wait(); err != nil {
		t.Fatal(err)
	}
	compare(t, cluster.DSN(), "journal", "n", records(t, broker.ListenAddrs(), "journal"))
	compare(t, cluster.DSN(), "items", "id", records(t, broker.ListenAddrs(), "items"))
}

// compare compares a table with the last record of each key: of all records, and of those that are no repetitions.
func compare(t *testing.T, dsn, table, key string, all []*kgo.Record) {
	t.Helper()
	var want []json.RawMessage
	if err := json.Unmarshal([]byte(pgtest.Query(t, dsn, "SELECT coalesce(json_agg(row_to_json(t) ORDER BY "+key+`::text COLLATE "C"), '[]') FROM `+table+" t")), &want); err != nil {
		t.Fatal(err)
	}
	last := map[int32]walchan.Position{}
	lastKeys := map[int32]map[string]bool{} // at the last position
	rows, once := map[string]string{}, map[string]string{}
	repeated := 0
	for _, r := range all {
		p := position(t, r)
		c := p.Compare(last[r.Partition])
		if c > 0 {
			last[r.Partition], lastKeys[r.Partition] = p, map[string]bool{}
		}
		put := func(to map[string]string) {
			if r.Value == nil {
				delete(to, string(r.Key))
			} else {
				to[string(r.Key)] = string(r.Value)
			}
		}
		put(rows)
		if c < 0 || lastKeys[r.Partition][string(r.Key)] {
			repeated++
			continue
		}
		lastKeys[r.Partition][string(r.Key)] = true
		put(once)
	}
	for what, m := range map[string]map[string]string{"all": rows, "those that are no repetitions": once} {
		var got []string
		for _, k := range slices.SortedFunc(maps.Keys(m), func(a, b string) int { return strings.Compare(strings.TrimSuffix(a, "}"), strings.TrimSuffix(b, "}")) }) {
			got = append(got, m[k])
		}
		if fmt.Sprintf("%s", got) != fmt.Sprintf("%s", want) {
			t.Errorf("%s, of %s:\n%.1500s\nsource\n%.1500s", table, what, got, want)
		}
	}
	t.Logf("%s: %d records, %d of them repetitions", table, len(all), repeated)
}

// traffic writes until ctx ends, whatever becomes of the server.
func traffic(ctx context.Context, dsn string, r *rand.Rand) {
	for ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, dsn)
		for err == nil && ctx.Err() == nil {
			id, other := r.IntN(50), r.IntN(50)
			sql := fmt.Sprintf("INSERT INTO journal DEFAULT VALUES; INSERT INTO items VALUES (%d, 'v%d') ON CONFLICT (id) DO UPDATE SET v = excluded.v", id, r.IntN(1000))
			switch r.IntN(10) {
			case 0:
				sql += fmt.Sprintf("; DELETE FROM items WHERE id BETWEEN %d AND %d", other, other+3)
			case 1:
				sql += fmt.Sprintf("; UPDATE items SET id = %d WHERE id = %d", 100+r.IntN(50), other)
			case 2:
				sql += "; INSERT INTO journal SELECT FROM generate_series(1, 40)"
			}
			time.Sleep(time.Duration(r.IntN(4)) * time.Millisecond) // or there is too much to compare
			_, err = conn.Exec(context.WithoutCancel(ctx), "BEGIN; "+sql+"; COMMIT")
			if err != nil && !conn.IsClosed() {
				_, err = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") // two have collided
			}
		}
		if conn != nil {
			conn.Close(context.Background())
		}
		time.Sleep(time.Millisecond)
	}
}
