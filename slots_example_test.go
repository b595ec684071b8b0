package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// What a program does before its first Subscribe, at every start, and what an operator does around it.
func Example_slotsAndPublications() {
	ctx := context.Background()
	server, err := pgtest.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	dsn := server.DSN()

	err = walchan.EnsurePublication(ctx, dsn, "shop", "orders")
	if errors.Is(err, walchan.ErrTableMissing) {
		fmt.Println(err)
	}
	if err := walchan.EnsurePublicationForAllTables(ctx, dsn, "everything"); err != nil {
		log.Fatal(err)
	}
	if _, err := walchan.CreateSlot(ctx, dsn, "shop"); err != nil {
		log.Fatal(err)
	}
	slots, err := walchan.Slots(ctx, dsn)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range slots {
		fmt.Println(s.Name, s.Plugin, s.Database, s.WALStatus, s.Active)
	}
	if err := walchan.DropSlot(ctx, dsn, "shop"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// walchan: no such table: 'orders'; create it, or name it as in SQL: shop.orders, shop."Order"
	// shop pgoutput postgres reserved false
}
