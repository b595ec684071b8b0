package walchan_test

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
)

// Each change is applied once, wherever the process is killed. The target has a table with one row:
//
//	CREATE TABLE applied (checkpoint text); INSERT INTO applied VALUES (NULL)
func ExampleWithCheckpoint() {
	apply := func(ctx context.Context, dsn string, db *pgx.Conn) error {
		var last walchan.Checkpoint
		if err := db.QueryRow(ctx, `SELECT checkpoint FROM applied`).Scan(&last); err != nil {
			return err
		}
		stream, err := walchan.Subscribe(ctx, dsn,
			walchan.WithSlot("orders"), walchan.WithCreateSlot(), walchan.WithPublication("orders"),
			walchan.WithCheckpoint(last))
		if err != nil {
			return err
		}
		defer stream.Close()

		for msg := range stream.C() {
			var tx pgx.Batch // one transaction of the target
			tx.Queue(`INSERT INTO history (change) VALUES ($1)`, msg.String())
			tx.Queue(`UPDATE applied SET checkpoint = $1`, msg.Checkpoint())
			if err := db.SendBatch(context.WithoutCancel(ctx), &tx).Close(); err != nil {
				return err
			}
			stream.Ack(msg)
		}
		return stream.Err()
	}
	_ = apply
}

// After ErrSlotMoved, ErrSlotMissing or ErrDiverged a person decides that the stream begins a second time. The checkpoint that is given
// up is in the log, and in the target.
func ExampleSubscribeAnew() {
	begin := func(ctx context.Context, dsn string, sink interface {
		Checkpoint(context.Context) (walchan.Checkpoint, error)
	}) error {
		lost, err := walchan.ParseCheckpoint(os.Getenv("BEGIN_ANEW")) // a person has put it there
		if err != nil {
			return err
		}
		stream, err := walchan.SubscribeAnew(ctx, dsn, lost,
			walchan.WithSlot("orders"), walchan.WithPublication("orders"), walchan.WithSnapshot(),
			walchan.WithCheckpointFrom(sink.Checkpoint))
		if err != nil {
			return err
		}
		defer stream.Close()
		return stream.Err()
	}
	_ = begin
}
