package walchan_test

import (
	"context"
	"fmt"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
)

// A copy of some tables: what is in them now, and from then on each change.
func ExampleWithSnapshot() {
	clear := func() error { return nil }
	put := func(walchan.Row) error { return nil }
	handle := func(context.Context, walchan.Message) error { return nil }
	run := func() error {
		stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("orders"), walchan.WithPublication("orders"),
			walchan.WithSnapshot(), walchan.WithCreateSlot())
		if err != nil {
			return err
		}
		defer stream.Close()

		for msg := range stream.C() {
			switch msg.Kind {
			case walchan.SnapshotBegin: // the rows follow, or start over
				err = clear()
			case walchan.Read:
				err = put(msg.New())
			case walchan.SnapshotEnd: // the changes follow
			default:
				err = handle(context.WithoutCancel(ctx), msg)
			}
			if err != nil {
				return err
			}
			stream.Ack(msg)
		}
		return stream.Err()
	}
	_ = run
}

// How far a snapshot is.
func ExampleTableProgress() {
	show := func(stream *walchan.Stream) {
		for _, p := range stream.Stats().Snapshot {
			fmt.Printf("%s: %d of about %d rows\n", p.Table, p.Rows, p.EstimatedRows)
		}
	}
	_ = show
}

// A table that joins a stream.
func ExampleStream_ReadRows() {
	join := func(stream *walchan.Stream) error {
		conn, err := admin.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "orders", Tables: admin.Tables("shop.returns")}); err != nil {
			return err
		}
		return stream.ReadRows(ctx, walchan.SnapshotTable{Name: "shop.returns"})
	}
	_ = join
}
