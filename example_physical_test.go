package walchan_test

import (
	"errors"
	"fmt"

	"github.com/walchan/walchan"
)

func ExampleSubscribePhysical() {
	var write func(timeline uint32, at walchan.LSN, wal string) error // and fsync
	receive := func() error {
		stream, err := walchan.SubscribePhysical(ctx, dsn, walchan.WithSlot("archive"), walchan.WithCreateSlot())
		if err != nil {
			return err
		}
		defer stream.Close()

		for msg := range stream.C() {
			if msg.Kind == walchan.WAL {
				if err := write(msg.Timeline(), msg.LSN, msg.Payload()); err != nil {
					return err
				}
			}
			stream.Ack(msg)
		}
		return stream.Err()
	}
	_ = receive
}

func ExampleConn_CreateSlot() {
	create := func() error {
		conn, err := walchan.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close()
		slot, err := conn.CreateSlot(ctx, walchan.NewSlot{Name: "orders", Failover: true, Snapshot: walchan.SnapshotExport})
		if errors.Is(err, walchan.ErrServerVersion) {
			fmt.Println(err) // failover needs PostgreSQL 17 or later; this is 15.4
		}
		if err != nil {
			return err
		}
		fmt.Println("SET TRANSACTION SNAPSHOT", slot.Snapshot) // sees what was committed before slot.Start
		return nil
	}
	_ = create
}

func ExampleConn_IdentifySystem() {
	conn, err := walchan.ConnectPhysical(ctx, dsn)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	system, err := conn.IdentifySystem(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	history, err := conn.TimelineHistory(ctx, system.Timeline)
	fmt.Println(system.ID, system.Flushed, history, err)
}
