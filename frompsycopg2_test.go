package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// The snippets of docs/from-psycopg2.md, in its order. That they are the same is seen to by TestReadme.
func TestFromPsycopg2(t *testing.T) {
	db := ownServer(t)
	db.Exec(t, "CREATE TABLE events (id serial PRIMARY KEY, what text)", "CREATE PUBLICATION events FOR TABLE events")
	for _, snippet := range []struct {
		name, slot string // that is to be there; "": not
		run        func(ctx context.Context, dsn string) error
		loops      bool
	}{
		{"slots", "", docSlots, false},
		{"a callback", "audit", docCallback, true},
		{"without parsing", "events", docWithoutParsing, true},
		{"stopping", "events", docStopping, false},
		{"select", "events", docSelect, true},
		{"send_feedback", "events", docFeedback, false},
		{"from a position", "events", docFrom, false},
		{"up to one", "events", docUntil, false},
		{"expert", "audit", docExpert, false},
		{"errors", "", docErrors, false},
	} {
		t.Run(snippet.name, func(t *testing.T) {
			docSeen = nil
			if snippet.slot != "" {
				plugin := map[string]string{"audit": "test_decoding", "events": "pgoutput"}[snippet.slot]
				db.Exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', '%s')", snippet.slot, plugin))
			}
			db.Exec(t, "INSERT INTO events (what) VALUES ('one'), ('last')")
			end := walEnd(t, db)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- snippet.run(ctx, db.DSN()) }()
			if snippet.loops {
				db.Wait(t, fmt.Sprintf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots WHERE slot_name = '%s'", end, snippet.slot))
				cancel()
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if snippet.slot == "events" && snippet.name != "from a position" && fmt.Sprint(docSeen) != "[one last]" {
				t.Errorf("seen is %v", docSeen)
			}
			dropAll(t, db)
		})
	}
}

func dropAll(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Wait(t, "SELECT NOT bool_or(active) FROM pg_replication_slots")
	db.Exec(t, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name IN ('audit', 'events')")
}

// What the snippets name without saying what it is.
var (
	docSeen []string
	events  = []walchan.Option{walchan.WithSlot("events"), walchan.WithPublication("events")}
	other   = make(chan struct{})
)

func store(_ int64, what string) { docSeen = append(docSeen, what) }

func consume(msg walchan.Message) { store(0, msg.New().Text(1)) }

func last(msg walchan.Message) bool { return msg.New().Text(1) == "last" }

func enough(msg walchan.Message) bool {
	consume(msg)
	return last(msg)
}

func docSlots(ctx context.Context, dsn string) error {
	conn, err := admin.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.CreateSlot(ctx, admin.SlotSpec{Name: "audit", Plugin: "test_decoding"}); err != nil {
		return err
	}
	return conn.DropSlot(ctx, "audit", admin.DropOptions{})
}

func docCallback(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("audit"),
		walchan.WithPlugin("test_decoding", map[string]string{"include-xids": "0"}))
	if err != nil {
		return err
	}
	defer stream.Close()

	for msg := range stream.C() {
		fmt.Println(msg.Payload())
		stream.Ack(msg)
	}
	return stream.Err()
}

func docWithoutParsing(ctx context.Context, dsn string) error {
	conn, err := admin.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "events", Tables: admin.Tables("events")}); err != nil {
		return err
	}
	stream, err := walchan.Subscribe(ctx, dsn,
		walchan.WithSlot("events"), walchan.WithCreateSlot(), walchan.WithPublication("events"))
	if err != nil {
		return err
	}
	defer stream.Close()

	for msg := range stream.C() {
		if msg.Kind == walchan.Insert {
			var row struct {
				ID   int64
				What string
			}
			if err := msg.New().Scan(&row); err != nil {
				return err
			}
			store(row.ID, row.What)
		}
		stream.Ack(msg)
	}
	return stream.Err()
}

func docStopping(ctx context.Context, dsn string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := walchan.Subscribe(ctx, dsn, events...)
	if err != nil {
		return err
	}
	defer stream.Close()

	for msg := range stream.C() {
		if enough(msg) {
			stop()
		}
		stream.Ack(msg)
	}
	return stream.Err() // nil
}

func docSelect(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn, events...)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		select {
		case msg, ok := <-stream.C():
			if !ok {
				return stream.Err()
			}
			consume(msg)
			stream.Ack(msg)
		case <-other:
			return nil
		}
	}
}

func docFeedback(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn, events...)
	if err != nil {
		return err
	}
	defer stream.Close()
	for msg := range stream.C() {
		consume(msg)
		if last(msg) {
			stream.AckThrough(msg)
			return stream.Flush(ctx)
		}
	}
	return stream.Err()
}

func docFrom(ctx context.Context, dsn string) error {
	from, err := walchan.ParseLSN("0/12D6870")
	if err != nil {
		return err
	}
	stream, err := walchan.Subscribe(ctx, dsn, append(events, walchan.WithFrom(from))...)
	if err != nil {
		return err
	}
	return stream.Close()
}

func docUntil(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn, append(events, walchan.WithUntilNow())...)
	if err != nil {
		return err
	}
	defer stream.Close()

	for msg := range stream.C() {
		consume(msg)
		stream.Ack(msg)
	}
	return stream.Err()
}

func docExpert(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("audit"), walchan.WithPlugin("test_decoding", nil),
		walchan.WithPluginOption("include-xids", "0"), walchan.WithPluginOption("skip-empty-xacts", ""))
	if err != nil {
		return err
	}
	defer stream.Close()
	select {
	case msg := <-stream.C():
		if msg.Payload() != "BEGIN" {
			return fmt.Errorf("the first message is %q", msg.Payload())
		}
	case <-time.After(patience):
		return errors.New("no message")
	}
	return nil
}

func docErrors(ctx context.Context, dsn string) error {
	stream, err := walchan.Subscribe(ctx, dsn, events...)
	if errors.Is(err, walchan.ErrSlotMissing) {
		stream, err = walchan.Subscribe(ctx, dsn, append(events, walchan.WithCreateSlot())...)
	}
	if err != nil {
		return err
	}
	return stream.Close()
}
