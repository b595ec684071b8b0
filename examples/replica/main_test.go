package main

import (
	"context"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
)

func TestReplica(t *testing.T) {
	source, target := pgtest.Database(t), pgtest.Database(t)
	const tables = `CREATE TABLE customers (id int PRIMARY KEY, name text);
		CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, status text)`
	source.Exec(t, tables, "CREATE PUBLICATION shop FOR TABLE customers, orders")
	target.Exec(t, tables)
	f := flags{source: source.DSN(), target: target.DSN(), slot: source.Name, publication: "shop", report: 50 * time.Millisecond}
	same := func() {
		t.Helper()
		wantSame(t, source, target, "customers", "orders")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, f) }()
	source.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+source.Name+"' AND active")
	source.Exec(t, `INSERT INTO customers VALUES (1, 'Ada'), (2, 'Grace'); INSERT INTO orders SELECT i, 1 + i % 2, 'new' FROM generate_series(1, 500) i`,
		"UPDATE orders SET status = 'paid' WHERE id % 3 = 0; DELETE FROM orders WHERE id > 400")
	target.Wait(t, "SELECT count(*) = 400 AND count(*) FILTER (WHERE status = 'paid') = 133 FROM orders")
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	same()

	// A second run goes on where the first one has ended.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	source.Exec(t, "TRUNCATE orders; UPDATE customers SET id = 3 WHERE id = 2; INSERT INTO orders VALUES (1, 3, 'last')")
	go func() { ended <- run(ctx, f) }()
	target.Wait(t, "SELECT count(*) = 1 FROM orders")
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	same()
}

func wantSame(t *testing.T, source, target pgtest.DB, tables ...string) {
	t.Helper()
	for _, table := range tables {
		sql := "SELECT string_agg(t::text, ' ' ORDER BY id) FROM " + table + " t"
		if want, got := source.Query(t, sql), target.Query(t, sql); got != want {
			t.Errorf("%s is %s, want %s", table, got, want)
		}
	}
}

// A snapshot that is interrupted begins anew, and nothing stays of the first that the source has no longer.
func TestReplicaWithSnapshot(t *testing.T) {
	source, target := pgtest.Database(t), pgtest.Database(t)
	const table = "CREATE TABLE customers (id int PRIMARY KEY, name text)"
	source.Exec(t, table, "CREATE PUBLICATION shop FOR TABLE customers", "INSERT INTO customers SELECT i, md5(i::text) FROM generate_series(1, 50000) i")
	target.Exec(t, table, "INSERT INTO customers VALUES (-1, 'of somebody else')")
	f := flags{source: source.DSN(), target: target.DSN(), slot: source.Name, publication: "shop", snapshot: true, report: time.Hour}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- run(ctx, f) }()
	target.Wait(t, "SELECT count(*) > 1 FROM customers")
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := target.Query(t, "SELECT count(*) FROM customers WHERE id > 0"); n == "0" || n == "50000" {
		t.Fatalf("%s rows: the snapshot was not interrupted", n)
	}
	source.Exec(t, "DELETE FROM customers WHERE id % 2 = 1 OR id < 1000")

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- run(ctx, f) }()
	source.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+source.Name+"' AND NOT temporary")
	source.Exec(t, "INSERT INTO customers VALUES (60000, 'last')", "DELETE FROM customers WHERE id = 2000")
	target.Wait(t, "SELECT count(*) = 1 FROM customers WHERE id = 60000")
	target.Wait(t, "SELECT count(*) = 0 FROM customers WHERE id = 2000")
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	wantSame(t, source, target, "customers")
}

func TestReplicaWithoutTarget(t *testing.T) {
	source := pgtest.Database(t)
	source.Exec(t, "CREATE PUBLICATION shop")
	f := flags{source: source.DSN(), target: "host=127.0.0.1 port=1", slot: source.Name, publication: "shop", report: time.Hour}
	if err := run(t.Context(), f); err == nil {
		t.Error("no error")
	}
	if n := source.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+source.Name+"'"); n != "0" {
		t.Error("a slot is left, which keeps WAL")
	}
}
