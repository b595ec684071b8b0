// Bench measures walchan next to the other ways to receive PostgreSQL's write-ahead log: `make bench`.
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
	"latency":    latency,
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
