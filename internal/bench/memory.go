package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"time"
)

// memory has walchan receive one large transaction, with a consumer that stops in the middle of it.
func memory(ctx context.Context, flags *flag.FlagSet, args []string) error {
	e := entry{rounds: 1, who: "walchan"}
	flags.StringVar(&e.out, "out", "", "directory for the report; none: standard output only")
	scale := flags.Float64("scale", 1, "size of the work")
	pause := flags.Duration("pause", time.Minute, "how long the consumer stops")
	flags.Parse(args)
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	large := &works[slices.IndexFunc(works, func(w work) bool { return w.name == "large" })]
	p, err := srv.prepare(ctx, large, *scale)
	if err != nil {
		return err
	}
	rep := &report{}
	c := &contest{title: "memory", prepared: p, typed: true, transport: tcp, extra: []string{"-pause", pause.String()}}
	if err := c.hold(ctx, srv, e.racing(rep), &e); err != nil {
		return err
	}
	fmt.Fprintf(&rep.page, "# Memory\n\n")
	rep.say("Measured by `make bench` on %s.", machine())
	for _, ms := range c.measures {
		rep.say("walchan receives "+large.what+" from a server, over TCP. After %d messages its consumer stops for %v. "+
			"Resident memory of the process: **%s** when it had subscribed, **%s** at most.", p.rows, pauseAt, *pause, mebibytes(float64(ms[0].Idle)), mebibytes(float64(ms[0].Peak)))
	}
	return rep.write(e.out, "memory")
}
