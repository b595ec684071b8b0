package admin_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

var (
	ctx  = context.Background()
	dsn  = "postgres://localhost/shop"
	conn *admin.Conn
)

// What an operator does for a consumer: a publication and a slot, a look at them, and their removal.
func Example_slotsAndPublications() {
	server, err := pgtest.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	conn, err := admin.Connect(ctx, server.DSN())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Exec(ctx, "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE logs (line text)"); err != nil {
		log.Fatal(err)
	}

	_, err = conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "shop", Tables: admin.Tables("orders", "logs")})
	if errors.Is(err, walerr.TableKey) {
		fmt.Println(err)
	}
	created, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "shop", Tables: admin.Tables("orders")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("created:", created)
	if _, err := conn.CreateSlot(ctx, admin.SlotSpec{Name: "shop"}); err != nil {
		log.Fatal(err)
	}

	slots, err := conn.Slots(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range slots {
		fmt.Println(s.Name, s.Plugin, s.Database, s.WALStatus, s.Active)
	}
	if err := conn.DropSlot(ctx, "shop", admin.DropOptions{}); err != nil {
		log.Fatal(err)
	}
	if err := conn.DropPublication(ctx, "shop"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// walchan: publication "shop" breaks UPDATE and DELETE of public.logs (no replica identity); ALTER TABLE public.logs ADD PRIMARY KEY (…), or ALTER TABLE public.logs REPLICA IDENTITY FULL, or publish neither (publish = 'insert, truncate'), or accept it (AllowUnkeyed)
	// created: true
	// shop pgoutput postgres reserved false
}

func ExampleConnect() {
	conn, err := admin.Connect(ctx, dsn)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}

func ExampleWithConnect() {
	var token func(context.Context) (string, error) // of a cloud's identity service; it expires soon
	conn, err := admin.Connect(ctx, dsn, admin.WithConnect(func(ctx context.Context, cfg *pgconn.Config) (err error) {
		cfg.Password, err = token(ctx)
		return err
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}

func ExampleWithLogger() {
	conn, err := admin.Connect(ctx, dsn, admin.WithLogger(slog.New(slog.NewJSONHandler(os.Stderr, nil))))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}

// A role that may stream WAL and not connect to a database makes itself a slot.
func ExampleWithPhysical() {
	conn, err := admin.Connect(ctx, dsn, admin.WithPhysical())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.CreateSlot(ctx, admin.SlotSpec{Name: "archive", Physical: true, ReserveWAL: true})
	if err != nil && !errors.Is(err, walerr.SlotExists) {
		log.Fatal(err)
	}
}

func ExampleConn_System() {
	system, err := conn.System(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("cluster %s, timeline %d, up to %s\n", system.ID, system.Timeline, system.Flushed)
}

func ExampleConn_TimelineHistory() {
	system, err := conn.System(ctx)
	if err != nil {
		log.Fatal(err)
	}
	history, err := conn.TimelineHistory(ctx, system.Timeline)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(history) // "1\t0/3000148\tno recovery target specified\n" after one promotion
}

func ExampleConn_Show() {
	level, err := conn.Show(ctx, "wal_level")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(level)
}

func ExampleConn_Exec() {
	rows, err := conn.Exec(ctx, "SELECT pid, state, sent_lsn FROM pg_stat_replication")
	if err != nil {
		log.Fatal(err)
	}
	for _, row := range rows {
		fmt.Println(row[0], row[1], row[2])
	}
}

// A slot with its first snapshot, for a copy of the tables that fits the stream exactly.
func ExampleConn_CreateSlot() {
	slot, err := conn.CreateSlot(ctx, admin.SlotSpec{Name: "orders", Failover: true, Export: admin.ExportName})
	if errors.Is(err, walerr.ServerVersion) {
		fmt.Println(err) // failover needs PostgreSQL 17 or later; this is 15.4
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("SET TRANSACTION SNAPSHOT", slot.Snapshot) // it sees what was committed before slot.Start
}

// The slot's consumer was told to stop and needs a moment.
func ExampleConn_DropSlot() {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := conn.DropSlot(ctx, "orders", admin.DropOptions{Wait: true, IfExists: true}); err != nil {
		log.Fatal(err)
	}
}

// Nobody needs what the slot has not confirmed yet.
func ExampleConn_AdvanceSlot() {
	at, err := conn.AdvanceSlot(ctx, "orders", wal.End)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the slot goes on at", at)
}

func ExampleConn_Slots() {
	slots, err := conn.Slots(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range slots {
		if !s.Active && s.Retained > 1<<30 {
			fmt.Printf("nobody reads from slot %s, and the server keeps %d MB of WAL for it\n", s.Name, s.Retained>>20)
		}
	}
}

func ExampleTables() {
	_, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "orders", Tables: admin.Tables("shop.orders", `shop."Customer"`)})
	if err != nil {
		log.Fatal(err)
	}
}

// Some columns, and some rows.
func ExampleConn_EnsurePublication() {
	_, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "orders", Tables: []admin.PublishedTable{
		{Name: "shop.orders"},
		{Name: "shop.customers", Columns: []string{"id", "name"}}, // no addresses
		{Name: "shop.visits", Where: "site = 'main'"},             // its key is (site, id)
	}})
	if err != nil {
		log.Fatal(err)
	}
}

// Tables without a key: only what was inserted is of interest.
func ExampleConn_EnsurePublication_insertsOnly() {
	_, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "logs", Schemas: []string{"logs"}, Publish: []string{"insert"}})
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleConn_DropPublication() {
	if err := conn.DropPublication(ctx, "orders"); err != nil {
		log.Fatal(err)
	}
}

func ExampleConn_Close() {
	conn, err := admin.Connect(ctx, dsn)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() // the temporary slots end, too
	if _, err := conn.CreateSlot(ctx, admin.SlotSpec{Name: "look", Temporary: true}); err != nil {
		log.Fatal(err)
	}
}
