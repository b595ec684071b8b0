package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline/kafka"
)

func TestKafka(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE orders (id int PRIMARY KEY, status text); CREATE TABLE visits (page text)", "INSERT INTO orders VALUES (1, 'new')",
		"CREATE PUBLICATION shop FOR TABLE orders, visits")
	f := flags{dsn: db.DSN(), slot: db.Name, publication: "shop", brokers: strings.Join(fake.ListenAddrs(), ","), prefix: "shop", onError: "log"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, f) }()
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND active AND NOT temporary")
	db.Exec(t, "INSERT INTO visits VALUES ('/')", "UPDATE orders SET id = 2, status = 'paid'", "DELETE FROM orders")

	reader, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.ConsumeTopics("shop.orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	reading, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	got := map[string][]string{}
	for n := 0; n < 4 && reading.Err() == nil; {
		for _, r := range reader.PollFetches(reading).Records() {
			got[string(r.Key)] = append(got[string(r.Key)], string(r.Value))
			n++
		}
	}
	if want := map[string][]string{`{"id":1}`: {`{"id":1,"status":"new"}`, ""}, `{"id":2}`: {`{"id":2,"status":"paid"}`, ""}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("records are %v, want %v", got, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	// A table without a key ends a run that is not told otherwise.
	f.onError = "exit"
	db.Exec(t, "INSERT INTO visits VALUES ('/again')")
	if err := run(t.Context(), f); !errors.Is(err, kafka.ErrUnkeyed) {
		t.Errorf("error is %v", err)
	}
}

func TestMistakes(t *testing.T) {
	if err := run(t.Context(), flags{onError: "ignore"}); err == nil || !strings.Contains(err.Error(), "-on-error") {
		t.Errorf("error is %v", err)
	}
}
