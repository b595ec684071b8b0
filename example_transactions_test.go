package walchan_test

import (
	"context"
	"fmt"

	"github.com/walchan/walchan"
)

func ExampleWithStreaming() {
	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("orders"), walchan.WithPublication("orders"),
		walchan.WithStreaming(), walchan.WithSpool(256<<20, "/var/tmp"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	fmt.Println("kept of transactions in progress:", stream.Stats().Spooled)
}

func ExampleWithTwoPhase() {
	var keep func(gid string, msg walchan.Message) error // stores it, so that it outlives the process
	var publish, discard func(gid string) error
	var handle func(context.Context, walchan.Message) error
	each := func(msg walchan.Message) error {
		switch {
		case msg.Kind == walchan.CommitPrepared:
			return publish(msg.Tx.GID)
		case msg.Kind == walchan.RollbackPrepared:
			return discard(msg.Tx.GID)
		case msg.Tx != nil && msg.Tx.GID != "":
			return keep(msg.Tx.GID, msg)
		}
		return handle(ctx, msg)
	}
	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("orders"), walchan.WithPublication("orders"), walchan.WithTwoPhase())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for msg := range stream.C() {
		if err := each(msg); err != nil {
			return
		}
		stream.Ack(msg)
	}
}
