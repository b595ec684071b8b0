package fakewal_test

import (
	"context"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/fakewal"
)

// The first stream breaks in the middle of a transaction; the second sends it again, as a server would.
func Example() {
	srv := fakewal.New()
	defer srv.Close()
	srv.Update(func(s *fakewal.State) {
		s.Publications = []string{"orders"}
		s.Slots["orders"] = fakewal.LogicalSlot(0x100)
	})
	orders := fakewal.Relation{OID: 16400, Schema: "public", Name: "orders", Columns: []fakewal.Column{
		{Name: "id", Key: true, Type: 23, Mod: -1}, {Name: "what", Type: 25, Mod: -1}}}
	log := []fakewal.Tx{{
		XID: 700, First: 0x110, Commit: 0x180, End: 0x1b0,
		Changes: [][]byte{orders.Encode(), fakewal.Insert(orders.OID, "1", "a book")},
	}}
	srv.Serve(
		func(c *fakewal.Conn) error {
			frames := log[0].Frames()
			if err := c.Play(frames[:2]...); err != nil {
				return err
			}
			return c.Cut(frames[2], 40)
		},
		func(c *fakewal.Conn) error { // plays all later ones too
			if err := c.Play(fakewal.Since(log, c.Start.From)...); err != nil {
				return err
			}
			_, err := c.AwaitFlush(0x1b0)
			return err
		},
	)
	for range 2 {
		fmt.Println(read(srv.Config(), 4))
	}
	// Output:
	// 2 messages, then an error
	// 4 messages
}

func read(cfg *pgconn.Config, most int) string {
	ctx := context.Background()
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err.Error()
	}
	defer conn.Close(ctx)
	err = pglogrepl.StartReplication(ctx, conn, "orders", 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'orders'"}})
	if err != nil {
		return err.Error()
	}
	for n := range most {
		if _, err := conn.ReceiveMessage(ctx); err != nil {
			return fmt.Sprint(n, " messages, then an error")
		}
	}
	return fmt.Sprint(most, " messages")
}
