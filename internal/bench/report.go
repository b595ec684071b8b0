package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is a page of Markdown and its charts, made as results come in.
type report struct {
	page     bytes.Buffer
	notes    []string
	charts   map[string]string // SVG by file name
	baseline string            // the contender that the others are compared with
	took     []*contender      // part
}

func newReport(title, command, baseline string, rounds int, scale float64) *report {
	r := &report{charts: map[string]string{}, baseline: baseline}
	fmt.Fprintf(&r.page, "# %s\n\n", title)
	r.say("Measured by `%s` on %s.", command, machine())
	r.say("%d rounds; each has every contender once, in changing order. Numbers are medians, with the range of messages/s. "+
		"× is the geometric mean of the ratios to %s in the same round, with its 95 %% interval (Student). "+
		"Messages are pgoutput's, Begin and Commit included, whatever of them a contender hands on. "+
		"Time, CPU, memory and waits (voluntary context switches) are those of the whole process.", rounds, baseline)
	if scale != 1 {
		r.note("Made with -scale %g: a quick run, good for a first impression only.", scale)
	}
	if rounds < 5 {
		r.note("Made with -rounds %d: the intervals are wide, or missing.", rounds)
	}
	return r
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(&r.page, format+"\n\n", args...) }

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
	fmt.Fprintln(os.Stderr, r.notes[len(r.notes)-1])
}

// add reports one contest.
func (r *report) add(c *contest, racing []*contender) {
	p := c.prepared
	perMessage := func(d time.Duration) float64 { return float64(d) / float64(p.messages) }
	rate := func(m measure) float64 { return m.rate(p) }
	cpu := func(m measure) float64 { return perMessage(m.ClientCPU) }

	r.say("## %s\n\n%s: %d messages, %.0f bytes each.", c.title, capital(c.what), p.messages, float64(p.bytes)/float64(p.messages))
	r.page.WriteString("| | messages/s | × | CPU a message | × | server's | waits | allocations | allocated | peak memory |\n" +
		"|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	var base []measure
	for x, m := range c.measures {
		if x.name == r.baseline {
			base = m
		}
	}
	var speed, cost []bar
	for _, x := range racing {
		ms := c.measures[x]
		if len(ms) == 0 {
			continue
		}
		if !slices.Contains(r.took, x) {
			r.took = append(r.took, x)
		}
		rates := each(ms, rate)
		fmt.Fprintf(&r.page, "| %s | %s (%s–%s) | %s | %s | %s | %s | %.3f | %s | %s | %s |\n", x.name,
			short(median(rates)), short(slices.Min(rates)), short(slices.Max(rates)), times(ms, base, rate),
			nanoseconds(median(each(ms, cpu))), times(ms, base, cpu),
			known(nanoseconds, median(each(ms, func(m measure) float64 { return perMessage(m.ServerCPU) }))),
			median(each(ms, func(m measure) float64 { return m.Waits })),
			known(decimals, median(each(ms, func(m measure) float64 { return m.Mallocs }))),
			known(size, median(each(ms, func(m measure) float64 { return m.Bytes }))),
			known(mebibytes, median(each(ms, func(m measure) float64 { return float64(m.Peak) }))))
		speed = append(speed, bar{x.name, median(rates)})
		cost = append(cost, bar{x.name, median(each(ms, cpu))})
	}
	r.page.WriteString("\n")
	name := fileName(c.title) + ".svg"
	r.charts[name] = chart(
		panel{capital(c.title) + ": messages a second", speed, short},
		panel{"CPU time of the client for a message", cost, nanoseconds})
	r.say("![%s](%s)", c.title, name)
}

// write prints the report, and puts it with its charts into a directory if there is one.
func (r *report) write(dir, name string) error {
	if len(r.took) > 0 {
		r.page.WriteString("## The contenders\n\n")
		for _, c := range r.took {
			fmt.Fprintf(&r.page, "- %s: %s.\n", c.name, c.what)
		}
		r.page.WriteString("\n")
	}
	for _, n := range r.notes {
		r.say("%s", n)
	}
	os.Stdout.Write(r.page.Bytes())
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, svg := range r.charts {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, name+".md"), r.page.Bytes(), 0o644)
}

// machine describes where the numbers come from.
func machine() string {
	cpu := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			cpu = strings.Trim(name, "\t :\n")
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d × %s, %s %s, %s, on %s", runtime.NumCPU(), cpu, runtime.GOOS,
		strings.TrimSpace(string(kernel)), runtime.Version(), time.Now().Format(time.DateOnly))
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
func known(format func(float64) string, v float64) string {
	if v == 0 {
		return "–"
	}
	return format(v)
}

// short writes 1234567 as "1.23 M" and 12345 as "12.3 k".
func short(v float64) string {
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

func nanoseconds(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f ms", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1f µs", v/1e3)
	}
	return fmt.Sprintf("%.0f ns", v)
}

func size(v float64) string {
	if v >= 1e4 {
		return fmt.Sprintf("%.0f kB", v/1e3)
	}
	return fmt.Sprintf("%.0f B", v)
}

func mebibytes(v float64) string { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }

func decimals(v float64) string { return fmt.Sprintf("%.2f", v) }

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// fileName makes a name for a file of a title.
func fileName(title string) string {
	return strings.ToLower(strings.Trim(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(title, "-"), "-"))
}
