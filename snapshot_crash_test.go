package walchan_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// snapshotConsumer is the environment variable with the connection string that turns the test binary into a consumer of a
// snapshot and what follows.
const snapshotConsumer = "WALCHAN_SNAPSHOT_CONSUMER"

// consumeSnapshotUntilKilled writes down each message, and only then acknowledges it.
func consumeSnapshotUntilKilled() {
	s, err := walchan.Subscribe(context.Background(), os.Getenv(snapshotConsumer), walchan.WithSlot("snap"), walchan.WithCreateSlot(),
		walchan.WithPublication("p"), walchan.WithSnapshot(), walchan.WithSnapshotJobs(1+rand.IntN(3)), walchan.WithWaitForSlot(), retrySoon,
		walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for m := range s.C() {
		line := m.Kind.String() + "\t"
		if m.Relation != nil {
			line += m.Relation.Name
		}
		for _, row := range []walchan.Row{m.Old(), m.New()} {
			line += "\t"
			for i := range row.Len() {
				line += row.Text(i) + ","
			}
		}
		fmt.Fprintln(os.Stdout, line)
		s.Ack(m)
	}
	fmt.Fprintln(os.Stderr, s.Err())
	os.Exit(1)
}

// A consumer that is killed at any moment, also while the snapshot is taken, and whose connections break, and that is started
// again: what it has been told makes a copy of the tables, each time. WALCHAN_SNAPSHOTS is how often.
func TestSnapshotOfCrashingConsumers(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	r := pgtest.Seeded(t)
	db := pgtest.DB{Cluster: pgtest.Start(t), Name: "postgres"}
	db.Exec(t, "CREATE TABLE accounts (id int PRIMARY KEY, n int)", "CREATE TABLE history (id bigserial PRIMARY KEY, n int)", "CREATE TABLE marker (id int PRIMARY KEY)",
		"INSERT INTO accounts SELECT g, 0 FROM generate_series(1, 3000) g", "CREATE PUBLICATION p FOR ALL TABLES")
	kills, attempts, slotless := 0, 0, 0
	for n := range env(t, "WALCHAN_SNAPSHOTS", 10) {
		stop := startBank(t, db)
		c := &copyOfTables{t: t, tables: map[string]map[string]string{}}
		for range r.IntN(6) {
			kills++
			lines := r.IntN(12000)
			c.consume(db, r, func() bool { lines--; return lines < 0 }, time.Duration(20+r.IntN(700))*time.Millisecond)
			// A slot that exists is that of a complete snapshot.
			if got := db.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'snap'") == "1"; got && !c.complete {
				t.Fatalf("snapshot %d: the slot exists before the snapshot was complete", n)
			} else if !got {
				slotless++
			}
		}
		stop()
		db.Exec(t, fmt.Sprintf("INSERT INTO marker VALUES (%d)", n))
		c.consume(db, nil, func() bool { return c.complete && c.tables["marker"][itoa(n)] != "" }, patience)
		attempts += c.begun
		for _, table := range []string{"accounts", "history"} {
			want := map[string]string{}
			for line := range strings.Lines(db.Query(t, "SELECT coalesce(string_agg(id || ',' || n || E',\\n', ''), '') FROM "+table)) {
				id, _, _ := strings.Cut(line, ",")
				want[id] = strings.TrimSpace(line)
			}
			if !maps.Equal(c.tables[table], want) {
				t.Fatalf("snapshot %d: the copy of %s has %d rows and differs from the table with %d", n, table, len(c.tables[table]), len(want))
			}
		}
		db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active")
		db.Exec(t, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots", "DELETE FROM history WHERE id % 2 = 0")
	}
	t.Logf("%d kills, after %d of them there was no slot; the rows began %d times", kills, slotless, attempts)
}

// startBank has two clients change accounts.
func startBank(t *testing.T, db pgtest.DB) (stop func()) {
	t.Helper()
	var stopped atomic.Bool
	var clients sync.WaitGroup
	for n := range 2 {
		conn := pgtest.Connect(t, db.DSN())
		r := rand.New(rand.NewPCG(uint64(n), 1))
		clients.Go(func() {
			for !stopped.Load() {
				id := 1 + r.IntN(3000)
				run(t, conn, "BEGIN", fmt.Sprintf("UPDATE accounts SET n = n + 1 WHERE id = %d", id), fmt.Sprintf("INSERT INTO history (n) VALUES (%d)", id),
					fmt.Sprintf("DELETE FROM history WHERE id = (SELECT max(id) - %d FROM history)", r.IntN(50)),
					[]string{"COMMIT", "COMMIT", "ROLLBACK"}[r.IntN(3)])
			}
			conn.Close(context.Background())
		})
	}
	return func() {
		stopped.Store(true)
		clients.Wait()
	}
}

// copyOfTables is what the messages make: table, key, row.
type copyOfTables struct {
	t        *testing.T
	tables   map[string]map[string]string
	begun    int
	complete bool
}

// consume runs a consumer until enough is seen, or it is old enough, and kills it. With r its connections break meanwhile.
func (c *copyOfTables) consume(db pgtest.DB, r *rand.Rand, enough func() bool, age time.Duration) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), snapshotConsumer+"="+db.DSN())
	cmd.Stderr = c.t.Output()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	death := time.AfterFunc(age, func() { cmd.Process.Kill() })
	breakAt := -1
	if r != nil && r.IntN(2) == 0 {
		breakAt = r.IntN(5000)
	}
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // a line that is not whole was not acknowledged
		}
		c.apply(strings.TrimSuffix(line, "\n"))
		if n == breakAt {
			db.Exec(c.t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walchan' AND random() < 0.5")
		}
		if enough() {
			cmd.Process.Kill()
		}
	}
	if !death.Stop() && r == nil {
		c.t.Errorf("after %v the consumer is not at the end", age)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		c.t.Fatalf("the consumer ended by itself: %v", err)
	}
}

func (c *copyOfTables) apply(line string) {
	f := strings.Split(line, "\t")
	if len(f) != 4 {
		c.t.Fatalf("the consumer wrote %q", line)
	}
	kind, table, old, row := f[0], f[1], f[2], f[3]
	if c.tables[table] == nil {
		c.tables[table] = map[string]string{}
	}
	id, _, _ := strings.Cut(row, ",")
	oldID, _, _ := strings.Cut(old, ",")
	switch kind {
	case walchan.SnapshotBegin.String():
		c.begun++
		c.tables, c.complete = map[string]map[string]string{}, false
	case walchan.SnapshotEnd.String():
		c.complete = true
	case walchan.Read.String():
		if _, twice := c.tables[table][id]; twice {
			c.t.Errorf("row %s of %s was read twice", id, table)
		}
		c.tables[table][id] = row
	case walchan.Delete.String():
		delete(c.tables[table], oldID)
	case walchan.Insert.String(), walchan.Update.String():
		c.tables[table][id] = row
	default:
		c.t.Fatalf("the consumer wrote %q", line)
	}
}
