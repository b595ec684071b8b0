package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/walchantest"
)

var (
	ctx = context.Background()
	dsn = "postgres://localhost/shop"
)

func ExampleWithPublication() {
	prepare := func() (*walchan.Stream, error) {
		conn, err := admin.Connect(ctx, dsn)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if _, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "orders", Tables: admin.Tables("shop.orders", "shop.customers")}); err != nil {
			return nil, err
		}
		return walchan.Subscribe(ctx, dsn,
			walchan.WithSlot("orders"), walchan.WithCreateSlot(), walchan.WithPublication("orders"))
	}
	_ = prepare
}

var orders = walchantest.NewTable("orders", "id bigint primary key", "status text", "note text")

func ExampleMessage() {
	type Order struct {
		ID     int64
		Status string
		Note   *string `db:"note,optional"`
	}
	apply := func(msg walchan.Message) error {
		switch msg.Kind {
		case walchan.Insert, walchan.Update:
			var o Order
			if err := msg.New().Scan(&o); err != nil {
				return err
			}
			fmt.Println("put", o.ID, o.Status)
		case walchan.Delete:
			id, err := msg.Old().Value("id")
			if err != nil {
				return err
			}
			fmt.Println("delete", id)
		}
		return nil
	}
	for _, msg := range walchantest.Messages(
		orders.Insert(1, "new", "fragile"),
		orders.Update(1, "paid", walchantest.Unchanged),
		orders.Delete(1),
	) {
		if err := apply(msg); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// put 1 new
	// put 1 paid
	// delete 1
}

func ExampleStream_Ack_workers() {
	work := func() error {
		g, ctx := errgroup.WithContext(ctx)
		stream, err := walchan.Subscribe(ctx, dsn,
			walchan.WithSlot("orders"), walchan.WithPublication("orders"))
		if err != nil {
			return err
		}
		defer stream.Close()

		for range 8 {
			g.Go(func() error {
				for msg := range stream.C() {
					if err := handle(context.WithoutCancel(ctx), msg); err != nil {
						return err
					}
					stream.Ack(msg)
				}
				return stream.Err()
			})
		}
		return g.Wait()
	}
	_ = work
}

func ExampleStream_AckThrough() {
	store := func(batch []walchan.Message) error {
		fmt.Println("stored", len(batch))
		return nil
	}
	inBatches := func(stream *walchan.Stream) error {
		var batch []walchan.Message
		for msg := range stream.C() {
			batch = append(batch, msg)
			if len(batch) < 500 && len(stream.C()) > 0 {
				continue // more is there already
			}
			if err := store(batch); err != nil {
				return err
			}
			stream.AckThrough(msg)
			batch = nil
		}
		return stream.Err()
	}
	srv := walchantest.NewServer(orders.Insert(1, "new", nil))
	defer srv.Close()
	stream, err := srv.Subscribe(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(inBatches(stream))
	// Output:
	// stored 1
	// <nil>
}

func ExamplePosition() {
	var last walchan.Position // stored by the sink, together with what it has applied
	for _, msg := range walchantest.Messages(orders.Insert(1, "new", nil), orders.Insert(2, "new", nil)) {
		if p, ok := msg.Position(); ok && p.Compare(last) > 0 {
			fmt.Println("apply", p)
			last = p
		}
	}
	// Output:
	// apply 0/1000100:2
	// apply 0/1000230:2
}

func ExampleError() {
	_, err := walchan.Subscribe(ctx, dsn,
		walchan.WithSlot("orders"), walchan.WithPublication("orders"))

	var e *walchan.Error
	switch {
	case errors.Is(err, walchan.ErrSlotActive) && errors.As(err, &e):
		fmt.Println("another process is at work: server process", e.PID)
	case errors.Is(err, walchan.ErrSlotMissing):
		fmt.Println("create it, and copy what the tables have now")
	case errors.As(err, &e):
		fmt.Println(err) // what, why, and what to do
	}
}

func ExampleWithPlugin() {
	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("audit"),
		walchan.WithPlugin("wal2json", map[string]string{"format-version": "2", "include-timestamp": "on"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for msg := range stream.C() {
		fmt.Println(msg.Payload())
		stream.Ack(msg)
	}
}

func ExampleWithStateHook() {
	hook := walchan.WithStateHook(func(s walchan.Stats) {
		slog.Info("orders", "state", s.State, "for", s.Err, "attempt", s.Attempt)
	})
	_ = hook
}
