package kafka_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/kafka"
	"github.com/walchan/walchan/walchantest"
)

// finish says that nothing follows.
const finish = "SELECT pg_logical_emit_message(true, 'finish', '')"

// pump writes what the stream delivers, until the message finish.
func pump(ctx context.Context, stream *walchan.Stream, sink pipeline.Sink[walchan.Message]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := pipeline.New(ctx, stream, time.Minute)
	last := pipeline.Filter(g, g.Source(), func(m walchan.Message) bool {
		if m.Prefix() == "finish" {
			cancel()
		}
		return true
	})
	pipeline.Into(g, pipeline.Batch(g, last, pipeline.Limit{Items: 200, Wait: 5 * time.Millisecond}), sink)
	return g.Wait()
}

// history is what a database goes through, its first rows in a snapshot, written by a sink.
func history(t *testing.T, sink *kafka.Sink, tables string, sql ...string) {
	t.Helper()
	db := pgtest.Database(t)
	db.Exec(t, tables, "CREATE PUBLICATION p FOR ALL TABLES")
	stream, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithSnapshot(), walchan.WithTransactions(),
		walchan.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- pump(t.Context(), stream, sink) }()
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND NOT temporary AND active")
	db.Exec(t, append(sql, finish)...)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("keys and values are\n%q\nwant\n%q", got, want)
	}
}

func TestRowsOfPostgreSQL(t *testing.T) {
	addrs := startCluster(t).ListenAddrs()
	history(t, open(t, addrs), `CREATE TABLE items (a int, v text, b text, PRIMARY KEY (b, a)); INSERT INTO items VALUES (0, 'before', 'x');
		ALTER TABLE items ALTER v SET STORAGE EXTERNAL; CREATE SCHEMA shop; CREATE TABLE shop."ö b" (id int PRIMARY KEY)`,
		"INSERT INTO items VALUES (1, 'a', 'x'), (2, NULL, 'x')", "UPDATE items SET v = 'c' WHERE a = 1", "UPDATE items SET b = 'y', v = 'm' WHERE a = 1",
		"DELETE FROM items WHERE a = 2; INSERT INTO items VALUES (2, repeat('z', 3000), 'x')", "UPDATE items SET a = 3 WHERE a = 2", `INSERT INTO shop."ö b" VALUES (7)`)
	all := records(t, addrs, "items")
	zs := strings.Repeat("z", 3000)
	same(t, byKey(all), map[string]string{
		`{"a":0,"b":"x"}`: `{"a":0,"v":"before","b":"x"}`,
		`{"a":1,"b":"x"}`: `{"a":1,"v":"a","b":"x"} {"a":1,"v":"c","b":"x"} `,
		`{"a":1,"b":"y"}`: `{"a":1,"v":"m","b":"y"}`,
		`{"a":2,"b":"x"}`: `{"a":2,"v":null,"b":"x"}  {"a":2,"v":"` + zs + `","b":"x"} `,
		`{"a":3,"b":"x"}`: `{"a":3,"b":"x"}`,
	})
	partitions := map[string]int32{}
	for _, r := range all {
		if p, ok := partitions[string(r.Key)]; ok && p != r.Partition {
			t.Errorf("%s is in the partitions %d and %d", r.Key, p, r.Partition)
		}
		partitions[string(r.Key)] = r.Partition
		switch s := string(r.Value); {
		case len(s) == 0 && r.Value != nil:
			t.Errorf("a tombstone of %s is not null", r.Key)
		case header(r, "walchan-unchanged") != map[bool]string{true: "v"}[s == `{"a":3,"b":"x"}`]:
			t.Errorf("of %s unchanged is %q", s, header(r, "walchan-unchanged"))
		case (header(r, "walchan-id") == "") != strings.Contains(s, "before"):
			t.Errorf("%s is at %q", s, header(r, "walchan-id"))
		}
	}
	same(t, byKey(records(t, addrs, "shop.__b")), map[string]string{`{"id":7}`: `{"id":7}`})
}

// What is in Avro another library reads, with the schemas that the registry has.
func TestAvro(t *testing.T) {
	registry := srfake.New()
	t.Cleanup(registry.Close)
	rcl, err := sr.NewClient(sr.URLs(registry.URL()))
	if err != nil {
		t.Fatal(err)
	}
	addrs := startCluster(t).ListenAddrs()
	history(t, open(t, addrs, kafka.WithAvro(rcl), kafka.WithPrefix("cdc")), "CREATE TABLE items (v text, id int PRIMARY KEY)",
		"INSERT INTO items VALUES ('a', 1)", "ALTER TABLE items ADD n numeric", "UPDATE items SET v = NULL, n = 1.50", "DELETE FROM items")
	decode := func(subject string, b []byte) string {
		if b == nil {
			return "null"
		}
		schema, err := rcl.SchemaByID(t.Context(), int(binary.BigEndian.Uint32(b[1:])))
		if err != nil || b[0] != 0 {
			t.Fatalf("%s: %x: %v", subject, b, err)
		}
		if _, err := rcl.LookupSchema(t.Context(), subject, schema); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
		var v map[string]any
		if rest, err := avro.MustParse(schema.Schema).Decode(b[5:], &v); err != nil || len(rest) > 0 {
			t.Fatalf("%s: %x: %v", subject, b, err)
		}
		return fmt.Sprint(v)
	}
	got := map[string]string{}
	for _, r := range records(t, addrs, "cdc.items") {
		got[decode("cdc.items-key", r.Key)] += decode("cdc.items-value", r.Value) + " "
	}
	same(t, got, map[string]string{"map[id:1]": "map[id:1 v:a] map[id:1 n:1.50 v:<nil>] null "})
}

func TestTopics(t *testing.T) {
	addrs := startCluster(t).ListenAddrs()
	a, b := walchantest.NewTable("shop.a b", "id int primary key"), walchantest.NewTable("shop.a/b", "id int primary key")
	msgs := walchantest.Messages(a.Insert(1), b.Insert(2))
	err := open(t, addrs).Write(t.Context(), msgs)
	if !errors.Is(err, kafka.ErrTopic) || !strings.Contains(err.Error(), `shop."a b"`) || !strings.Contains(err.Error(), `shop."a/b"`) {
		t.Errorf("error is %v", err)
	}
	sink := open(t, addrs, kafka.WithTopic(func(r *walchan.Relation) string { return "all-" + fmt.Sprint(len(r.Columns), r.Name == "a b") }))
	if err := sink.Write(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
	same(t, byKey(records(t, addrs, "all-1 true")), map[string]string{`{"id":1}`: `{"id":1}`})
}

func TestRefused(t *testing.T) {
	addrs := startCluster(t).ListenAddrs()
	bare := walchantest.NewTable("bare", "id int", "v text")
	full := walchantest.NewTable("full", "id int primary key", "v text").ReplicaIdentityFull()
	for name, test := range map[string]struct {
		change walchantest.Change
		opts   []kafka.Option
		want   error // nil: another one
	}{
		"no key":             {bare.Insert(1, "a"), nil, kafka.ErrUnkeyed},
		"identity full":      {full.Insert(1, "a"), nil, kafka.ErrUnkeyed},
		"delete without key": {full.Delete(1, "a"), []kafka.Option{kafka.WithUnkeyed()}, kafka.ErrUnkeyed},
		"truncate":           {walchantest.Truncate(items), nil, kafka.ErrTruncate},
		"too large":          {items.Insert(1, strings.Repeat("x", 2<<20)), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			addrs := startCluster(t).ListenAddrs()
			msgs := walchantest.Messages(items.Insert(10, "a"), test.change, items.Insert(11, "b"))
			sink := open(t, addrs, test.opts...)
			var refused *pipeline.RefusedError
			err := sink.Write(t.Context(), msgs)
			if !errors.As(err, &refused) || refused.Item != 1 || test.want != nil && !errors.Is(err, test.want) || strings.Contains(err.Error(), "xx") {
				t.Errorf("error is %v", err)
			}
			if err := pipeline.Skip(sink, quiet).Write(t.Context(), msgs); err != nil {
				t.Fatal(err)
			}
			same(t, byKey(records(t, addrs, "items")), map[string]string{`{"id":10}`: `{"id":10,"v":"a"}`, `{"id":11}`: `{"id":11,"v":"b"}`})
		})
	}
	sink := open(t, addrs, kafka.WithUnkeyed(), kafka.WithKey(func(r *walchan.Relation) []string {
		return map[string][]string{"full": {"id"}}[r.Name]
	}))
	if err := sink.Write(t.Context(), walchantest.Messages(bare.Insert(1, "a"), full.Insert(1, "a"), full.Update(1, "b").From(1, "a"), full.Update(2, "b").From(1, "b"), full.Delete(2, "b"))); err != nil {
		t.Fatal(err)
	}
	same(t, byKey(records(t, addrs, "bare")), map[string]string{"": `{"id":1,"v":"a"}`})
	same(t, byKey(records(t, addrs, "full")), map[string]string{`{"id":1}`: `{"id":1,"v":"a"} {"id":1,"v":"b"} `, `{"id":2}`: `{"id":2,"v":"b"} `})
}

func TestOpen(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := kafka.Open(ctx, client(t, []string{"127.0.0.1:1"})); err == nil {
		t.Error("opened without brokers")
	}
	addrs := startCluster(t).ListenAddrs()
	if _, err := kafka.Open(ctx, client(t, addrs, kgo.DisableIdempotentWrite())); err == nil || !strings.Contains(err.Error(), "idempotent") {
		t.Errorf("not idempotent: %v", err)
	}
	rcl, err := sr.NewClient(sr.URLs("http://127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kafka.Open(ctx, client(t, addrs), kafka.WithAvro(rcl)); err == nil {
		t.Error("opened without a registry")
	}
}
