// Chaos proves that streams and sinks lose, repeat and reorder nothing, whatever becomes of the network, the servers and the
// consumers: go run ./internal/chaos -duration 10m -seed 1
//
// It starts a PostgreSQL server, writes to it without a pause, and lets nine consumers receive everything through a network that
// fails (proxy.go). The server is restarted, killed and paused (faults.go), and replaced by its standby, with and without a loss
// (failover.go, succession.go). After a loss the consumers must refuse to go on (refusal.go).
//
// In this process run a stream that is acknowledged in ever changing ways, and one of the output plugin test_decoding
// (consumer.go). In processes that are killed and started again (child.go) run a consumer with a journal, one with checkpoints
// (keeper.go), and the sinks (sinks.go): files of lines, a Writer, PostgreSQL, JetStream and Kafka. Their servers (targets.go) are
// killed, too, and their networks fail.
//
// At the end each consumer's journal, or the content of its sink (compare.go, rows.go, holds.go), is compared with the truth, which
// comes from the servers (reference.go). After a fail-over with a loss that is done before the targets are made again.
//
// The exit status is 1 if something is lost, repeated or reordered, or a consumer fails; 2 if chaos itself does, which says
// nothing of walchan (go run prints the status and has another one).
//
// It is a module of its own for the clients and servers that the sinks need.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(childVariable) != "" {
		exit(beChild())
	}
	duration := flag.Duration("duration", time.Minute, "how long to inject faults")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the faults and the traffic (default: the time)")
	verbose := flag.Bool("v", false, "print each fault")
	only := flag.String("failover", "", "only the fail-overs in whose name this is: "+kindsOfFailovers())
	keep := flag.Bool("keep", false, "keep journals and logs, whatever the result")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &chaos{seed: *seed, duration: *duration, largeTx: 20_000, only: *only, diary: diary{out: os.Stdout, verbose: *verbose}}
	exit(c.prove(ctx, *keep))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if isFinding(err) {
			os.Exit(statusFinding)
		}
		os.Exit(statusTools)
	}
	os.Exit(0)
}

// prove runs chaos and prints what has come of it. The error says where to look.
func (c *chaos) prove(ctx context.Context, keep bool) error {
	fmt.Fprintf(c.out, "seed %d, %v\n", c.seed, c.duration)
	r, err := c.run(ctx)
	if err == nil {
		r.wrong = append(r.wrong, leaks(c.servers)...)
		r.print(c.out)
		if !r.ok() {
			err = found("seed %d: something is wrong", c.seed)
		}
	}
	switch {
	case err == nil:
		fmt.Fprintln(c.out, "nothing lost, nothing repeated, nothing reordered; no goroutine and no server process is left")
	case isFinding(err):
		fmt.Fprintln(c.out, "walchan is at fault, or a server is")
	default:
		fmt.Fprintln(c.out, "chaos itself has failed, which says nothing of walchan")
	}
	if err == nil && !keep {
		return os.RemoveAll(c.dir)
	}
	fmt.Fprintln(c.out, "journals and logs are in", c.dir)
	return err
}
