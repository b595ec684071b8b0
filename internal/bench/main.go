// Bench measures walchan next to the other ways to receive PostgreSQL's write-ahead log: `make bench`.
//
//	go run ./internal/bench throughput   # a real server, several kinds of work, TCP, Unix sockets and TLS
//	go run ./internal/bench client       # a fake server that only copies bytes
//	go run ./internal/bench latency      # from commit to consumer
//	go run ./internal/bench memory       # of a large transaction, when the consumer stops for a minute
//	go run ./internal/bench growth       # how walchan's cost grows: `make bench-growth`
//
// Each has -help. A first impression in a minute: throughput -scale 0.05 -rounds 2 -works mix. To compare two versions of walchan,
// build this program from each, name the older one in WALCHAN_BENCH_BEFORE, and give the newer one -contenders 'walchan before,walchan'.
//
// It starts a server of its own, gives it something to send, and has the contenders receive it in turn, each in a process
// of its own, so that the system accounts for its CPU time and memory. Numbers of one machine at one time can be compared
// with each other and with nothing else: so every round runs every contender, in an order that changes, and what is
// reported beside the medians is the ratio of runs of the same round.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

var commands = map[string]func(context.Context, *flag.FlagSet, []string) error{
	"throughput": throughput,
	"client":     client,
	"growth":     growth,
	"latency":    latency,
	"memory":     memory,
	"late":       late,
	"contend":    contend,
	"snapshot":   snapshot,
	"copy":       copyTable,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	name, args := "throughput", os.Args[1:]
	if len(args) > 0 && commands[args[0]] != nil {
		name, args = args[0], args[1:]
	}
	if err := commands[name](ctx, flag.NewFlagSet(name, flag.ExitOnError), args); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
