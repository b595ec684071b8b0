package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// baseline is the contender that the others are compared with.
const baseline = "pg_recvlogical"

// report is a page of Markdown and its charts, made as results come in.
type report struct {
	page   bytes.Buffer
	notes  []string
	charts map[string]string // SVG by file name
	rounds int
}

func newReport(srv *server, scale float64, rounds int) *report {
	r := &report{charts: map[string]string{}, rounds: rounds}
	fmt.Fprintf(&r.page, "# Throughput\n\nMeasured by `make bench` on %s.\n\n", machine(srv))
	fmt.Fprintf(&r.page, "%d rounds; each has every contender once, in changing order. Numbers are medians, with the range of messages/s; "+
		"`×` is the geometric mean of the ratios to %s in the same round, with its 95 %% interval (Student). "+
		"Messages are pgoutput's, Begin and Commit included, whatever of them a contender hands on. "+
		"Time and CPU are those of the whole process; server CPU is that of its walsender. "+
		"Server settings: fsync and autovacuum off, 512 MB of shared buffers.\n", rounds, baseline)
	if scale != 1 {
		r.note("Made with -scale %g: a quick run, good for a first impression only.", scale)
	}
	if rounds < 5 {
		r.note("Only %d rounds: the intervals are wide.", rounds)
	}
	return r
}

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
	fmt.Fprintln(os.Stderr, r.notes[len(r.notes)-1])
}

// add reports one contest.
func (r *report) add(c *contest, racing []*contender) {
	p := c.prepared
	fmt.Fprintf(&r.page, "\n## %s over %s\n\n%s: %d messages, %.0f bytes each.\n\n", c.work.name, c.transport,
		capital(fmt.Sprintf(c.work.what, p.rows)), p.messages, float64(p.bytes)/float64(p.messages))
	r.page.WriteString("| | messages/s | × | client CPU | × | server CPU | allocations a message | bytes allocated a message | peak memory |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	var base []measure
	for x, m := range c.measures {
		if x.name == baseline {
			base = m
		}
	}
	var speed, cost []bar
	for _, x := range racing {
		ms := c.measures[x]
		if len(ms) == 0 {
			continue
		}
		rate := func(m measure) float64 { return m.rate(p) }
		cpu := func(m measure) float64 { return m.ClientCPU.Seconds() }
		rates := each(ms, rate)
		fmt.Fprintf(&r.page, "| %s | %s (%s–%s) | %s | %.2f s | %s | %.2f s | %s | %s | %.0f MiB |\n", x.name,
			thousands(median(rates)), thousands(slices.Min(rates)), thousands(slices.Max(rates)), times(ms, base, rate),
			median(each(ms, cpu)), times(ms, base, cpu),
			median(each(ms, func(m measure) float64 { return m.ServerCPU.Seconds() })),
			known("%.2f", median(each(ms, func(m measure) float64 { return m.Mallocs }))),
			known("%.0f", median(each(ms, func(m measure) float64 { return m.Bytes }))),
			median(each(ms, func(m measure) float64 { return float64(m.Peak) / (1 << 20) })))
		speed = append(speed, bar{x.name, median(rates)})
		cost = append(cost, bar{x.name, median(each(ms, cpu)) / float64(p.messages) * 1e6})
	}
	title := fmt.Sprintf("%s over %s", c.work.name, c.transport)
	r.charts[fmt.Sprintf("%s-%s.svg", c.work.name, c.transport)] = chart(
		panel{title + ": messages a second", speed, thousands},
		panel{"CPU seconds of the client for a million messages", cost, func(v float64) string { return fmt.Sprintf("%.2f", v) }})
}

// write prints the report, and puts it with its charts into a directory if there is one.
func (r *report) write(dir string) error {
	r.page.WriteString("\n## The contenders\n\n")
	for _, c := range contenders {
		fmt.Fprintf(&r.page, "- %s: %s.\n", c.name, c.what)
	}
	for _, n := range r.notes {
		fmt.Fprintf(&r.page, "\n%s\n", n)
	}
	os.Stdout.Write(r.page.Bytes())
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, svg := range r.charts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "throughput.md"), r.page.Bytes(), 0o644)
}

// machine describes where the numbers come from.
func machine(srv *server) string {
	cpu := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			cpu = strings.Trim(name, "\t :\n")
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d × %s, %s %s, %s, PostgreSQL %s, on %s", runtime.NumCPU(), cpu, runtime.GOOS,
		strings.TrimSpace(string(kernel)), runtime.Version(), srv.conn.ParameterStatus("server_version"), time.Now().Format(time.DateOnly))
}

func each(ms []measure, f func(measure) float64) (v []float64) {
	for _, m := range ms {
		v = append(v, f(m))
	}
	return v
}

// times compares with the baseline.
func times(ms, base []measure, f func(measure) float64) string {
	if len(ms) != len(base) {
		return ""
	}
	r := ratioOf(each(ms, f), each(base, f))
	if math.IsNaN(r.Low) || &ms[0] == &base[0] {
		return fmt.Sprintf("%.2f", r.Mean)
	}
	return fmt.Sprintf("%.2f [%.2f, %.2f]", r.Mean, r.Low, r.High)
}

// known is "–" for what was not measured.
func known(format string, v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// thousands writes 1234567 as "1.23 M" and 12345 as "12.3 k".
func thousands(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 1e5:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.1f k", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
