package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/postgres"
)

// The environment variables with the connection strings that turn the test binary into a replicating process.
const (
	replicaSource = "WALCHAN_REPLICA_SOURCE"
	replicaTarget = "WALCHAN_REPLICA_TARGET"
	replicaSlot   = "WALCHAN_REPLICA_SLOT"
)

func replicateUntilKilled() {
	err := func() error {
		ctx := context.Background()
		sink, err := postgres.Open(ctx, os.Getenv(replicaTarget))
		if err != nil {
			return err
		}
		stream, err := subscribe(ctx, os.Getenv(replicaSource), os.Getenv(replicaSlot), sink, walchan.WithWaitForSlot())
		if err != nil {
			return err
		}
		return replicate(ctx, stream, pipeline.Retry(sink, soon))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A replicating process that is killed at any moment, and started again, over and over, leaves the target as the source is:
// nothing is missing, and of the table without a key, which shows each repetition, nothing is there twice.
func TestKilledProcessesApplyEachChangeOnce(t *testing.T) {
	const crashes = 25
	r := pgtest.Seeded(t)
	p := newPair(t, schema...)
	var clients sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for n := range 3 {
		conn, r := pgtest.Connect(t, p.source.DSN()), rand.New(rand.NewPCG(r.Uint64(), uint64(n)))
		clients.Go(func() {
			for ctx.Err() == nil {
				// Clients may deadlock, or collide: then it is rolled back, and all is well.
				if _, err := conn.Exec(context.Background(), randomTransaction(r)); err != nil {
					if _, err := conn.Exec(context.Background(), "ROLLBACK"); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), replicaSource+"="+p.source.DSN(), replicaTarget+"="+p.target.DSN(), replicaSlot+"="+p.source.Name)
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	applied := 0
	for n := range crashes {
		before := p.target.Query(t, "SELECT count(*) FROM journal")
		cmd := start()
		if n%2 == 0 { // the others may be killed before they have begun
			p.target.Wait(t, "SELECT count(*) > "+before+" FROM journal")
		}
		time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond) // any moment
		cmd.Process.Kill()
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the process ended by itself: %v", err)
		}
		if p.target.Query(t, "SELECT count(*) FROM journal") != before {
			applied++
		}
	}
	stop()
	clients.Wait()
	if applied < crashes/4 {
		t.Errorf("of %d processes only %d have applied anything", crashes, applied)
	}
	p.source.Exec(t, finish)
	if err := start().Wait(); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		p.same(t, table)
	}
	t.Logf("%s transactions, %d of %d processes have applied some", p.source.Query(t, "SELECT count(*) FROM journal"), applied, crashes)
}
