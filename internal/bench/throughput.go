package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// contest is one work over one transport, and its result.
type contest struct {
	title     string
	what      string // is sent
	prepared  *prepared
	typed     bool
	transport string
	extra     []string                 // see run
	measures  map[*contender][]measure // of each round
}

// entry is what the flags of a command say of its contests.
type entry struct {
	rounds   int
	who      string
	out      string
	profiles string
}

func (e *entry) flags(f *flag.FlagSet) {
	f.IntVar(&e.rounds, "rounds", 5, "how often each contender runs")
	f.StringVar(&e.who, "contenders", "", "contenders, comma-separated (default: all)")
	f.StringVar(&e.out, "out", "", "directory for the report; none: standard output only")
	f.StringVar(&e.profiles, "profiles", "", "directory for CPU profiles of the contenders written in Go")
}

// racing returns the contenders. Those that are not on this machine are noted.
func (e *entry) racing(rep *report) []*contender {
	return slices.DeleteFunc(choose(e.who, contenders, func(c *contender) string { return c.name }), func(c *contender) bool {
		if c.missing == nil {
			return false
		}
		err := c.missing()
		if err != nil {
			rep.note("%s does not take part: %v.", c.name, err)
		}
		return err != nil
	})
}

// throughput has the contenders receive each work, and reports.
func throughput(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var e entry
	e.flags(flags)
	scale := flags.Float64("scale", 1, "size of the work")
	only := flags.String("works", "", "works, comma-separated (default: all)")
	over := flags.String("transports", "", "transports, comma-separated (default: what each work says)")
	flags.Parse(args)
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	rep := newReport("Throughput", "make bench", "pg_recvlogical", e.rounds, *scale)
	rep.say("The server is PostgreSQL %s, with fsync and autovacuum off and 512 MB of shared buffers. Server CPU is that of the walsender.",
		srv.conn.ParameterStatus("server_version"))
	racing := e.racing(rep)
	for _, w := range choose(*only, refs(works), func(w *work) string { return w.name }) {
		fmt.Fprintf(os.Stderr, "%s: preparing\n", w.name)
		p, err := srv.prepare(ctx, w, *scale)
		if err != nil {
			return err
		}
		for _, transport := range choose(*over, w.transports, func(s string) string { return s }) {
			c := &contest{title: w.name + " over " + transport, what: fmt.Sprintf(w.what, p.rows), prepared: p, typed: w.typed, transport: transport}
			if err := c.hold(ctx, srv, racing, &e); err != nil {
				return err
			}
			rep.add(c, racing)
		}
	}
	return rep.write(e.out, "throughput")
}

// hold runs the rounds. Each begins with another contender, and every other one goes backwards.
func (c *contest) hold(ctx context.Context, v venue, racing []*contender, e *entry) error {
	racing = slices.DeleteFunc(slices.Clone(racing), func(x *contender) bool { return x.typed && !c.typed })
	c.measures = map[*contender][]measure{}
	for round := range e.rounds {
		for i := range racing {
			at := (round/2 + i) % len(racing)
			if round%2 == 1 {
				at = (round/2 + len(racing) - 1 - i) % len(racing)
			}
			x := racing[at]
			m, err := c.let(ctx, v, x, e)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.title, x.name, err)
			}
			c.measures[x] = append(c.measures[x], m)
			fmt.Fprintf(os.Stderr, "%s, round %d, %s: %.0f messages/s, client CPU %v, server CPU %v\n", c.title,
				round+1, x.name, m.rate(c.prepared), m.ClientCPU.Round(time.Millisecond), m.ServerCPU)
		}
	}
	return nil
}

// let has one contender run once.
func (c *contest) let(ctx context.Context, v venue, x *contender, e *entry) (measure, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	r := &run{venue: v, work: c.prepared, dsn: v.dsn(c.transport), slot: "run", extra: c.extra}
	if e.profiles != "" {
		r.profile = filepath.Join(e.profiles, fileName(c.title+" "+x.name)+".prof")
	}
	return r.do(ctx, x)
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
