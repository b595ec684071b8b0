package walchan_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// storingConsumer is the environment variable with the connection string that turns the test binary into a consumer that stores
// checkpoints. storedCheckpoint has the one from which it begins.
const (
	storingConsumer  = "WALCHAN_STORING_CONSUMER"
	storedCheckpoint = "WALCHAN_STORED_CHECKPOINT"
)

// storeUntilKilled writes each row and its checkpoint into a pipe, which is what it stores, and only then acknowledges it.
func storeUntilKilled() {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	opts := []walchan.Option{walchan.WithSlot("postgres"), walchan.WithPublication("p"), walchan.WithWaitForSlot(), retrySoon,
		walchan.WithLogger(slog.New(slog.DiscardHandler)), walchan.WithCreateSlot()}
	c, err := walchan.ParseCheckpoint(os.Getenv(storedCheckpoint))
	if err != nil {
		fail(err)
	}
	s, err := walchan.Subscribe(context.Background(), os.Getenv(storingConsumer), append(opts, walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return c, nil }))...)
	if err != nil {
		fail(err)
	}
	for m := range s.C() {
		fmt.Fprintln(os.Stdout, id(m), m.Checkpoint())
		s.Ack(m)
	}
	fail(s.Err())
}

// A consumer that stores checkpoints is killed at any moment and started again, over and over. It stores every row that was committed
// once, and in commit order.
func TestKilledConsumersStoreEachRowOnce(t *testing.T) {
	const kills = 30
	r := pgtest.Seeded(t)
	db := ownServer(t)
	createReference(t, db)
	insert(t, db, 1_000_000, 1, 1)
	first := &copyOf{}
	s := first.begins(t, db)
	first.stores(t, s)
	s.Close()
	k := &storedRows{rows: []int{1_000_000}, last: first.checkpoint}
	stop := startTraffic(t, db)
	for range kills {
		rows, age := len(k.rows)+1+r.IntN(400), patience
		if r.IntN(5) == 0 { // some die before they have begun
			age = time.Duration(r.IntN(200)) * time.Millisecond
		}
		k.consume(t, db, age, func() bool { return len(k.rows) >= rows })
	}
	stop()
	want := reference(t, db)
	k.consume(t, db, patience, func() bool { return len(k.rows) >= len(want) })
	if !slices.Equal(k.rows, want) {
		for i, id := range want {
			if i >= len(k.rows) || k.rows[i] != id {
				t.Fatalf("of %d rows number %d is the first that differs: want %d; %d were stored", len(want), i, id, len(k.rows))
			}
		}
		t.Fatalf("%d rows were stored, want %d", len(k.rows), len(want))
	}
	t.Logf("%d rows", len(want))
}

// storedRows is what all processes have stored.
type storedRows struct {
	rows []int
	last string // checkpoint
}

// consume runs a consumer until that is enough, or it is old enough, and kills it.
func (k *storedRows) consume(t *testing.T, db pgtest.DB, age time.Duration, enough func() bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), storingConsumer+"="+db.DSN(), storedCheckpoint+"="+k.last)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	death := time.AfterFunc(age, func() { cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var row int
		if n, _ := fmt.Sscan(lines.Text(), &row, &k.last); n != 2 {
			t.Fatalf("the consumer wrote %q", lines.Text())
		}
		if row != 0 {
			k.rows = append(k.rows, row)
		}
		if enough() {
			cmd.Process.Kill() // what it has stored until then is still read
		}
	}
	if !death.Stop() && age == patience {
		t.Errorf("after %v there are %d rows, and no more", age, len(k.rows))
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the consumer ended by itself: %v", err)
	}
}
