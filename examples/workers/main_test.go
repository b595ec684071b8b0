package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A job that takes long holds up no other; the process that comes next gets what was not done, and nothing else.
func TestWorkers(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE jobs (id int PRIMARY KEY, what text); CREATE PUBLICATION jobs FOR TABLE jobs")
	subscribe := func(ctx context.Context) *walchan.Stream {
		stream, err := walchan.Subscribe(ctx, db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("jobs"), walchan.WithWaitForSlot())
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	stream := subscribe(t.Context())
	db.Exec(t, "INSERT INTO jobs SELECT i, 'mail' FROM generate_series(0, 99) i")

	var out bytes.Buffer
	var handled atomic.Int32
	broken := errors.New("broken")
	// The first job is not done before all others are; and then it fails.
	err := work(t.Context(), stream, 8, func(ctx context.Context, job walchan.Row) (string, error) {
		if job.Text(0) != "0" {
			handled.Add(1)
			return job.Text(0), nil
		}
		for handled.Load() < 30 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		return "", broken
	}, &out)
	if !errors.Is(err, broken) {
		t.Fatalf("work: %v", err)
	}
	if n := strings.Count(out.String(), "\n"); n < 20 {
		t.Errorf("%d jobs were done beside the first", n)
	}

	// All are of one transaction, of which the first is missing: it comes again as a whole.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out.Reset()
	var left atomic.Int32
	left.Store(100)
	err = work(ctx, subscribe(ctx), 8, func(_ context.Context, job walchan.Row) (string, error) {
		if left.Add(-1) == 0 {
			cancel() // as Ctrl-C
		}
		return job.Text(0), nil
	}, &out)
	if err != nil {
		t.Errorf("work: %v", err)
	}
	var ids []int
	for _, line := range strings.Fields(out.String()) {
		id, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) != 100 || ids[0] != 0 || ids[99] != 99 {
		t.Errorf("jobs %v were done", ids)
	}
	if n := db.Query(t, "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('"+db.Name+"', NULL, NULL, 'proto_version', '1', 'publication_names', 'jobs')"); n != "0" {
		t.Errorf("%s messages would come again", n)
	}
}

func TestHandle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := handle(ctx, walchan.Row{}); err != context.Canceled {
		t.Errorf("a job that is cancelled: %v", err)
	}
}
