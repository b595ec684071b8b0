package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"
)

// A dimension is something that can be large, with values of it.
type dimension struct {
	name   string
	title  string
	what   string
	values []int
	set    func(*contest, *recording, int)
}

var dimensions = []dimension{
	{
		name: "rows", title: "Rows of a transaction", what: "small transactions have more Begin and Commit for their rows",
		values: []int{1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000},
		set:    func(_ *contest, r *recording, n int) { r.rows = n },
	},
	{
		name: "columns", title: "Columns", what: "of ten bytes",
		values: []int{1, 3, 10, 30, 100, 300, 1000},
		set: func(_ *contest, r *recording, n int) {
			r.columns = n
			r.messages = min(r.messages, r.messages*30/n)
		},
	},
	{
		name: "width", title: "Bytes of a row", what: "in one column",
		values: []int{10, 100, 1000, 10_000, 100_000, 1_000_000},
		set: func(_ *contest, r *recording, n int) {
			r.columns, r.width = 1, n
			r.rows = max(1, min(r.rows, 1_000_000/n))
			r.messages = min(r.messages, r.messages*300/n)
		},
	},
	{
		name: "tables", title: "Tables", what: "whose rows take turns within the transactions",
		values: []int{1, 10, 100, 1000, 10_000},
		set:    func(_ *contest, r *recording, n int) { r.tables, r.rows = n, max(r.rows, n) },
	},
	{
		name: "unacknowledged", title: "Unacknowledged messages", what: "a message is acknowledged when as many others have come; the consumer keeps a receipt of 24 bytes for each",
		values: []int{0, 1000, 10_000, 100_000, 1_000_000, 10_000_000},
		set: func(c *contest, r *recording, n int) {
			r.messages = max(r.messages, 2*n)
			c.extra = []string{"-hold", strconv.Itoa(n)}
		},
	},
	{
		name: "streams", title: "Streams in one process", what: "each with a connection and a consumer of its own; messages are those of all",
		values: []int{1, 3, 10, 30, 100},
		set: func(c *contest, r *recording, n int) {
			r.streams = n
			r.messages /= n
			c.extra = []string{"-streams", strconv.Itoa(n)}
		},
	},
}

// growth measures how walchan's cost grows with what it is given, against the fake server of client.
func growth(ctx context.Context, flags *flag.FlagSet, args []string) error {
	e := entry{who: "walchan"}
	flags.IntVar(&e.rounds, "rounds", 3, "how often each is measured")
	flags.StringVar(&e.out, "out", "", "directory for the report; none: standard output only")
	messages := flags.Int("messages", 2_000_000, "how many messages, at most")
	only := flags.String("only", "", "dimensions, comma-separated (default: all)")
	flags.Parse(args)
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	rep := &report{charts: map[string]string{}}
	fmt.Fprintf(&rep.page, "# How cost grows\n\n")
	rep.say("Measured by `make bench-growth` on %s. Medians of %d rounds.", machine(), e.rounds)
	rep.say("walchan receives recorded messages from a fake server, over TCP and as fast as it can, and acknowledges each. "+
		"Where nothing else is said they are transactions of %d rows of %d columns of %d bytes, of one table. "+
		"CPU and memory are those of the whole process.", usual.rows, usual.columns, usual.width)
	for _, d := range choose(*only, refs(dimensions), func(d *dimension) string { return d.name }) {
		rep.say("## %s\n\n%s.", d.title, capital(d.what))
		rep.page.WriteString("| | messages/s | CPU a message | allocations | allocated | peak memory |\n|--:|--:|--:|--:|--:|--:|\n")
		var speed, memory []bar
		for _, n := range d.values {
			rec := usual
			rec.messages = *messages
			c := &contest{title: fmt.Sprintf("%s %d", d.name, n), transport: tcp}
			d.set(c, &rec, n)
			if err := c.holdReplay(ctx, srv, rec, e.racing(rep), &e); err != nil {
				return err
			}
			rate, peak := rep.addGrowth(n, c)
			speed = append(speed, bar{grouped(n), rate})
			memory = append(memory, bar{grouped(n), peak})
		}
		rep.page.WriteString("\n")
		file := "growth-" + d.name + ".svg"
		rep.charts[file] = chart(panel{d.title + ": messages a second", speed, short}, panel{"peak memory of the process", memory, mebibytes})
		rep.say("![%s](%s)", d.title, file)
	}
	return rep.write(e.out, "growth")
}

// addGrowth adds a line, and returns messages a second and the peak of memory.
func (r *report) addGrowth(n int, c *contest) (rate, peak float64) {
	for _, ms := range c.measures { // of one contender
		rate = median(each(ms, func(m measure) float64 { return m.rate(c.prepared) }))
		peak = median(each(ms, func(m measure) float64 { return float64(m.Peak) }))
		fmt.Fprintf(&r.page, "| %s | %s | %s | %.2f | %s | %s |\n", grouped(n), short(rate),
			nanoseconds(median(each(ms, func(m measure) float64 { return float64(m.ClientCPU) / float64(c.prepared.messages) }))),
			median(each(ms, func(m measure) float64 { return m.Mallocs })),
			size(median(each(ms, func(m measure) float64 { return m.Bytes }))), known(mebibytes, peak))
	}
	return rate, peak
}

// grouped writes 1000000 as "1,000,000".
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
