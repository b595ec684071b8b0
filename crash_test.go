package walchan_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// crashConsumer is the environment variable with the connection string that turns the test binary into a consumer.
const crashConsumer = "WALCHAN_CRASH_CONSUMER"

// consumeUntilKilled writes down each row, and only then has one of eight goroutines acknowledge it, in random order. What it
// has written into the pipe survives it.
func consumeUntilKilled() {
	s, err := walchan.Subscribe(context.Background(), os.Getenv(crashConsumer), walchan.WithSlot("postgres"), walchan.WithPublication("p"),
		walchan.WithWaitForSlot(), retrySoon, walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	seen := make(chan walchan.Message)
	for range 8 {
		go func() {
			var held []walchan.Message
			r := rand.New(rand.NewPCG(rand.Uint64(), 0))
			for m := range seen {
				if held = append(held, m); len(held) > r.IntN(20) {
					ackOneOf(s, &held, r)
				}
			}
		}()
	}
	for m := range s.C() {
		p, _ := m.Position()
		fmt.Fprintln(os.Stdout, id(m), p)
		seen <- m
	}
	fmt.Fprintln(os.Stderr, s.Err())
	os.Exit(1)
}

// A consumer that is killed at any moment and started again, over and over, sees every row that was committed, and first in
// commit order. What it sees again it can recognise.
func TestCrashedConsumersLoseNothing(t *testing.T) {
	const crashes = 50
	r := pgtest.Seeded(t)
	db := ownServer(t)
	createReference(t, db)
	stopTraffic := startTraffic(t, db)
	seen := sightings{at: map[string]string{}}
	for range crashes {
		// Some die before they have begun.
		rows, age := 1+r.IntN(400), patience
		if r.IntN(5) == 0 {
			age = time.Duration(r.IntN(200)) * time.Millisecond
		}
		seen.consume(t, db, age, func(n int) bool { return n >= rows })
	}
	stopTraffic()
	want := reference(t, db)
	seen.consume(t, db, patience, func(int) bool { return len(seen.order) >= len(want) })
	t.Logf("%d rows, seen %d times", len(want), seen.total)
	if !slices.Equal(seen.order, want) {
		for i, id := range want {
			if i >= len(seen.order) || seen.order[i] != id {
				t.Fatalf("of %d rows the first that differs is number %d: want %d; seen were %d", len(want), i, id, len(seen.order))
			}
		}
		t.Fatalf("%d rows were seen, want %d", len(seen.order), len(want))
	}
}

// startTraffic has four clients write transactions of a few rows, with savepoints and rollbacks. What it returns stops them.
func startTraffic(t *testing.T, db pgtest.DB) (stop func()) {
	t.Helper()
	var ids atomic.Int32
	var stopped atomic.Bool
	var clients sync.WaitGroup
	for n := range 4 {
		conn := pgtest.Connect(t, db.DSN())
		r := rand.New(rand.NewPCG(uint64(n), 0))
		clients.Go(func() {
			for !stopped.Load() {
				row := func() string { return fmt.Sprintf("INSERT INTO t VALUES (%d)", ids.Add(1)) }
				sql := []string{"BEGIN", row()}
				for range r.IntN(4) {
					sql = append(sql, row())
				}
				if r.IntN(3) == 0 {
					sql = append(sql, "SAVEPOINT s", row(), "ROLLBACK TO s", "INSERT INTO quiet VALUES (1)", row())
				}
				run(t, conn, append(sql, []string{"COMMIT", "COMMIT", "COMMIT", "ROLLBACK"}[r.IntN(4)])...)
			}
		})
	}
	return func() {
		stopped.Store(true)
		clients.Wait()
	}
}

// sightings is what all consumers have seen.
type sightings struct {
	order []int             // rows, when they were seen first
	at    map[string]string // row → position
	total int
}

// consume runs a consumer until enough rows of it are seen, or it is old enough, and kills it.
func (s *sightings) consume(t *testing.T, db pgtest.DB, age time.Duration, enough func(rows int) bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashConsumer+"="+db.DSN())
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	death := time.AfterFunc(age, func() { cmd.Process.Kill() })
	rows := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		s.add(t, lines.Text())
		if rows++; enough(rows) {
			cmd.Process.Kill() // what it has written until then is still read
		}
	}
	if !death.Stop() && age == patience {
		t.Errorf("after %v the consumer has seen %d rows, and no more", age, rows)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the consumer ended by itself: %v", err)
	}
}

func (s *sightings) add(t *testing.T, line string) {
	var row, position string
	if n, _ := fmt.Sscan(line, &row, &position); n != 2 {
		t.Fatalf("the consumer wrote %q", line)
	}
	s.total++
	switch at, again := s.at[row]; {
	case !again:
		var id int
		fmt.Sscan(row, &id)
		s.order, s.at[row] = append(s.order, id), position
	case at != position:
		t.Errorf("row %s came again at %s, and was at %s", row, position, at)
	}
}
