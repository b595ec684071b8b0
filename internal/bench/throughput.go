package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// contest is the result of one work over one transport.
type contest struct {
	work      *work
	prepared  *prepared
	transport string
	measures  map[*contender][]measure // of each round
}

// throughput has the contenders receive each work, and reports.
func throughput(ctx context.Context, flags *flag.FlagSet, args []string) error {
	scale := flags.Float64("scale", 1, "size of the work")
	rounds := flags.Int("rounds", 5, "how often each contender runs")
	only := flags.String("works", "", "works, comma-separated (default: all)")
	over := flags.String("transports", "", "transports, comma-separated (default: what each work says)")
	who := flags.String("contenders", "", "contenders, comma-separated (default: all)")
	out := flags.String("out", "", "directory for the report; none: standard output only")
	profile := flags.String("profile", "", "directory for CPU profiles of the contenders written in Go")
	flags.Parse(args)

	racing := choose(*who, contenders, func(c *contender) string { return c.name })
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	rep := newReport(srv, *scale, *rounds)
	racing = slices.DeleteFunc(racing, func(c *contender) bool {
		if c.missing == nil {
			return false
		}
		err := c.missing()
		if err != nil {
			rep.note("%s is missing: %v.", c.name, err)
		}
		return err != nil
	})
	for _, w := range choose(*only, refs(works), func(w *work) string { return w.name }) {
		fmt.Fprintf(os.Stderr, "%s: preparing\n", w.name)
		p, err := srv.prepare(ctx, w, *scale)
		if err != nil {
			return err
		}
		for _, transport := range choose(*over, w.transports, func(s string) string { return s }) {
			c := &contest{w, p, transport, map[*contender][]measure{}}
			if err := c.hold(ctx, srv, racing, *rounds, *profile); err != nil {
				return err
			}
			rep.add(c, racing)
		}
	}
	return rep.write(*out)
}

// hold runs the rounds. Each begins with another contender, and every other one goes backwards.
func (c *contest) hold(ctx context.Context, srv *server, racing []*contender, rounds int, profile string) error {
	racing = slices.DeleteFunc(slices.Clone(racing), func(x *contender) bool { return x.typed && !c.work.typed })
	for round := range rounds {
		for i := range racing {
			at := (round/2 + i) % len(racing)
			if round%2 == 1 {
				at = (round/2 + len(racing) - 1 - i) % len(racing)
			}
			x := racing[at]
			r := &run{srv: srv, work: c.prepared, transport: c.transport, slot: fmt.Sprintf("run_%d", at), profile: profile}
			limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
			m, err := r.do(limited, x)
			cancel()
			if err != nil {
				return err
			}
			c.measures[x] = append(c.measures[x], m)
			fmt.Fprintf(os.Stderr, "%s over %s, round %d, %s: %.0f messages/s, client CPU %v, server CPU %v\n", c.work.name, c.transport,
				round+1, x.name, m.rate(c.prepared), m.ClientCPU.Round(time.Millisecond), m.ServerCPU)
		}
	}
	return nil
}

// rate is in messages of pgoutput a second, whatever of them the contender delivers.
func (m measure) rate(p *prepared) float64 { return float64(p.messages) / m.Wall.Seconds() }

// choose returns those of all whose names are listed; all if none are.
func choose[T any](list string, all []T, name func(T) string) (chosen []T) {
	if list == "" {
		return slices.Clone(all)
	}
	for n := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(x T) bool { return name(x) == n })
		if i < 0 {
			fmt.Fprintf(os.Stderr, "bench: there is no %q\n", n)
			os.Exit(2)
		}
		chosen = append(chosen, all[i])
	}
	return chosen
}

func refs[T any](all []T) (p []*T) {
	for i := range all {
		p = append(p, &all[i])
	}
	return p
}
