package jetstream_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/jetstream"
	"github.com/walchan/walchan/walchantest"
)

// A server that is killed and started again while one sink publishes.
func TestServerKilled(t *testing.T) {
	const rows = 20_000
	p := startNATS(t)
	nc := dial(t, p.url())
	sink := pipeline.Retry(open(t, nc, "S"), soon)
	var entries []walchantest.Entry
	for i := range rows {
		entries = append(entries, items.Insert(i, "x"))
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
	for range 8 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // any moment
		p.kill()
		p.start()
	}
	if len(written) > 0 {
		t.Error("all was written before the last server was killed")
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	all := stored(t, nc, "S")
	for i, m := range all {
		if id := parse(t, m).After["id"]; id != float64(i) {
			t.Fatalf("message %d has the row %v", i, id)
		}
	}
	if len(all) != rows {
		t.Errorf("%d of %d messages are stored", len(all), rows)
	}
}

// Writes that are cancelled at any moment: one that succeeds has stored all, so that the next one finds the stream as it was left.
func TestWriteCancelled(t *testing.T) {
	const rounds, rows = 200, 100
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	succeeded := 0
	var entries []walchantest.Entry
	for i := range rounds * rows {
		entries = append(entries, items.Insert(i, "x"))
	}
	all := walchantest.Messages(entries...)
	for i := range rounds {
		batch := all[i*rows : (i+1)*rows]
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(12_000))*time.Microsecond)
		err := sink.Write(ctx, batch)
		if err == nil {
			succeeded++
		} else if ctx.Err() == nil {
			t.Fatalf("batch %d, behind one that was stored: %v", i, err)
		} else if err := pipeline.Retry(sink, soon).Write(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if n := len(stored(t, nc, name)); n != rounds*rows || succeeded == 0 || succeeded == rounds {
		t.Errorf("%d messages, %d of %d writes succeeded", n, succeeded, rounds)
	}
}

// The environment variables that turn the test binary into a process that publishes.
const (
	publisherSource = "WALCHAN_PUBLISHER_SOURCE"
	publisherSlot   = "WALCHAN_PUBLISHER_SLOT"
	publisherNATS   = "WALCHAN_PUBLISHER_NATS"
)

func publishUntilKilled() {
	err := func() error {
		ctx := context.Background()
		nc, err := nats.Connect(os.Getenv(publisherNATS), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(20*time.Millisecond))
		if err != nil {
			return err
		}
		stream := insist(func() (*walchan.Stream, error) {
			return walchan.Subscribe(ctx, os.Getenv(publisherSource), walchan.WithSlot(os.Getenv(publisherSlot)), walchan.WithPublication("p"),
				walchan.WithWaitForSlot(), walchan.WithLogger(quiet))
		})
		sink := insist(func() (*jetstream.Sink, error) {
			return jetstream.Open(ctx, nc, "S", stream.Source(), jetstream.WithCreateStream(short))
		})
		return publish(ctx, stream, pipeline.Retry(sink, soon))
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

// Processes that are killed at any moment and started again, a NATS server that is killed, connections to PostgreSQL that
// break and a PostgreSQL that crashes: what is in the stream is what the source has gone through, without a repetition.
func TestKilledProcessesPublishOnce(t *testing.T) {
	const crashes = 12
	r := seeded(t)
	cluster := pgtest.Start(t)
	pgtest.Exec(t, cluster.DSN(), "CREATE TABLE items (id int PRIMARY KEY, v text, big text); ALTER TABLE items REPLICA IDENTITY FULL",
		"CREATE TABLE journal (n bigserial)", "CREATE PUBLICATION p FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	server := startNATS(t)
	var clients sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for n := range 3 {
		r := rand.New(rand.NewPCG(r.Uint64(), uint64(n)))
		clients.Go(func() { traffic(ctx, cluster.DSN(), r) })
	}
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), publisherSource+"="+cluster.DSN(), publisherSlot+"=s", publisherNATS+"="+server.url())
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
			server.kill()
			anyMoment()
			server.start()
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
	compare(t, cluster.DSN(), stored(t, dial(t, server.url()), "S"))
}

// traffic writes until ctx ends, whatever becomes of the server.
func traffic(ctx context.Context, dsn string, r *rand.Rand) {
	for ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, dsn)
		for err == nil && ctx.Err() == nil {
			id, other := r.IntN(50), r.IntN(50)
			sql := fmt.Sprintf("INSERT INTO journal DEFAULT VALUES; INSERT INTO items VALUES (%d, 'v%d', repeat('x', %d)) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
				id, r.IntN(1000), r.IntN(2)*5000)
			switch r.IntN(10) {
			case 0:
				sql += fmt.Sprintf("; DELETE FROM items WHERE id BETWEEN %d AND %d", other, other+3)
			case 1:
				sql += fmt.Sprintf("; UPDATE items SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM items WHERE id = %d)", 100+r.IntN(50), other, other+100)
			case 2:
				sql += "; INSERT INTO journal SELECT FROM generate_series(1, 40)"
			case 3:
				if r.IntN(30) == 0 {
					sql += "; TRUNCATE items"
				}
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

// compare replays the messages and compares with what the source has.
func compare(t *testing.T, dsn string, all []natsjs.Msg) {
	t.Helper()
	items, journal := map[string]map[string]any{}, map[string]bool{}
	var previous [4]uint64
	for i, m := range all {
		if p := position(t, m.Headers()); slices.Compare(p[:], previous[:]) <= 0 {
			t.Fatalf("message %d is at %v, behind %v: it is there again", i, p, previous)
		} else {
			previous = p
		}
		e := parse(t, m)
		switch _, table, _ := strings.Cut(m.Subject(), "."); {
		case table == "public.journal":
			journal[fmt.Sprint(int64(e.After["n"].(float64)))] = true
		case table == "public.items" && e.Op == "t":
			clear(items)
		case table == "public.items":
			if e.Before != nil {
				delete(items, fmt.Sprint(e.Before["id"]))
			}
			if e.After != nil {
				if e.After["big"] == "__debezium_unavailable_value" {
					e.After["big"] = e.Before["big"]
				}
				items[fmt.Sprint(e.After["id"])] = e.After
			}
		}
	}
	equal(t, dsn, "SELECT coalesce(json_agg(n::text ORDER BY n::text COLLATE \"C\"), '[]') FROM journal", slices.Sorted(maps.Keys(journal)))
	rows := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(items)) {
		rows = append(rows, items[id])
	}
	equal(t, dsn, "SELECT coalesce(json_agg(i ORDER BY id::text COLLATE \"C\"), '[]') FROM items i", rows)
	t.Logf("%d messages, %d rows of the journal", len(all), len(journal))
}

// equal fails the test unless the query gives v as JSON.
func equal[T any](t *testing.T, dsn, sql string, v T) {
	t.Helper()
	var want T
	if err := json.Unmarshal([]byte(pgtest.Query(t, dsn, sql)), &want); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(v)
	if is, _ := json.Marshal(want); string(got) != string(is) {
		t.Errorf("%s\nsource %.1500s\nstream %.1500s", sql, is, got)
	}
}

// seeded returns random numbers whose seed is printed, and can be given.
func seeded(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
