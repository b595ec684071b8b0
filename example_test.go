package walchan_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/walchan/walchan"
)

// The loop. It ends on Ctrl-C, or with an error that cannot be mended by trying again; a change that was not acknowledged
// comes again when the program is started again.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := follow(ctx, "postgres://localhost/shop"); err != nil {
		log.Fatal(err)
	}
}

func follow(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn,
		walchan.WithSlot("orders"), walchan.WithPublication("orders"))
	if err != nil {
		return err
	}
	defer stream.Close()

	for msg := range stream.C() {
		if err := handle(context.WithoutCancel(ctx), msg); err != nil {
			return err
		}
		stream.Ack(msg)
	}
	return stream.Err()
}

func handle(_ context.Context, msg walchan.Message) error {
	fmt.Println(msg)
	return nil
}
