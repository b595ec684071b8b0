package walchan_test

import (
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
