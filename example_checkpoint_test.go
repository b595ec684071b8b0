package walchan_test

import (
	"context"
	"errors"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
)

// Each change is applied once, wherever the process is killed. The target has the changes, and a table with one row:
//
//	CREATE TABLE history (kind text, old jsonb, new jsonb);
//	CREATE TABLE applied (checkpoint text); INSERT INTO applied VALUES (NULL)
func ExampleWithCheckpointFrom() {
	apply := func(ctx context.Context, dsn string, db *pgx.Conn) error {
		var last walchan.Checkpoint
		stored := func(ctx context.Context) (walchan.Checkpoint, error) {
			err := db.QueryRow(ctx, `SELECT checkpoint FROM applied`).Scan(&last)
			return last, err
		}
		stream, err := walchan.Subscribe(ctx, dsn,
			walchan.WithSlot("orders"), walchan.WithCreateSlot(), walchan.WithPublication("orders"),
			walchan.WithCheckpointFrom(stored))
		if err != nil {
			return err
		}
		defer stream.Close()

		for msg := range stream.C() {
			ctx := context.WithoutCancel(ctx) // what was received is stored
			err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				done, err := tx.Exec(ctx, `UPDATE applied SET checkpoint = $1 WHERE checkpoint IS NOT DISTINCT FROM $2`, msg.Checkpoint(), last)
				switch {
				case err != nil:
					return err
				case done.RowsAffected() == 0:
					return errors.New("another process has taken over")
				case msg.Relation != nil:
					_, err = tx.Exec(ctx, `INSERT INTO history VALUES ($1, $2, $3)`, msg.Kind.String(), msg.Old(), msg.New())
				}
				return err
			})
			if err != nil {
				return err
			}
			last = msg.Checkpoint()
			stream.Ack(msg)
		}
		return stream.Err()
	}
	_ = apply
}

// After ErrSlotMoved, ErrSlotMissing or ErrDiverged a person decides that the stream begins a second time. The checkpoint that is given
// up is in the target.
func ExampleSubscribeAnew() {
	begin := func(ctx context.Context, dsn string, sink interface {
		Checkpoint(context.Context) (walchan.Checkpoint, error)
	}) (*walchan.Stream, error) {
		opts := []walchan.Option{walchan.WithSlot("orders"), walchan.WithCreateSlot(), walchan.WithPublication("orders"), walchan.WithSnapshot(),
			walchan.WithCheckpointFrom(sink.Checkpoint)}
		text := os.Getenv("BEGIN_ANEW") // a person has put it there; usually it is not set
		if text == "" {
			return walchan.Subscribe(ctx, dsn, opts...)
		}
		lost, err := walchan.ParseCheckpoint(text)
		if err != nil {
			return nil, err
		}
		return walchan.SubscribeAnew(ctx, dsn, lost, opts...)
	}
	_ = begin
}
