package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// A report is what has come of a run.
type report struct {
	seed      uint64
	took      time.Duration
	counts    map[string]int // of faults
	traffic   *traffic
	changes   int // that the publication should have brought, with BEGIN and COMMIT
	totals    map[string]*total
	catchUps  []time.Duration
	stop      time.Duration // the longest of the server
	failovers string
	wrong     []string // beside the totals
}

// A total is the verdict on a consumer, over all of its targets.
type total struct {
	verdict
	reconnects  uint64 // of a stream in this process
	redelivered int64  // messages with Tx.Redelivered
	inside      int    // lives that went on in the middle of a transaction
}

func (c *chaos) total(slot string) *total {
	if c.totals[slot] == nil {
		c.totals[slot] = &total{}
	}
	return c.totals[slot]
}

func (r *report) ok() bool {
	for _, t := range r.totals {
		if !t.ok() {
			return false
		}
	}
	return len(r.wrong) == 0
}

// judge compares what was received with what was written. The consumers are stopped.
func (c *chaos) judge(ctx context.Context) (report, error) {
	own, err := readReference(ctx, c.cluster.SocketDSN())
	if err != nil {
		return report{}, err
	}
	ref := c.history.join(own)
	if err := c.closeTargets(ctx, ref, false); err != nil {
		return report{}, err
	}
	for _, k := range c.streams() {
		c.closeStream(k)
	}
	r := report{seed: c.seed, took: time.Since(c.began), counts: c.counts, traffic: &c.traffic, changes: len(ref.published), totals: c.totals,
		catchUps: c.catchUps, stop: c.longestStop, failovers: c.describeFailovers(), wrong: c.wrong}
	for _, k := range c.children {
		c.total(k.order.Slot).Lives = k.order.Life
	}
	for _, t := range c.targets {
		r.counts[targetKilled+t.name] = t.kills
	}
	if n := c.total("stream").redelivered + c.total("raw").redelivered; n > 0 {
		r.wrong = append(r.wrong, fmt.Sprintf("%d messages with Tx.Redelivered, though no publication was altered", n))
	}
	for _, check := range []func(context.Context, *reference) ([]string, error){c.checkLedger, c.checkConfirmed} {
		wrong, err := check(ctx, ref)
		if err != nil {
			return r, err
		}
		r.wrong = append(r.wrong, wrong...)
	}
	return r, nil
}

// describeFailovers says which ones there were.
func (c *chaos) describeFailovers() string {
	var b strings.Builder
	for _, f := range c.failovers() {
		fmt.Fprintf(&b, "%d of kind %q, ", c.counts[f.kind], f.kind)
	}
	fmt.Fprintf(&b, "with which %d committed transactions were lost; consumers refused to go on", c.lost)
	for _, kind := range slices.Sorted(maps.Keys(c.refusals)) {
		fmt.Fprintf(&b, ", %d times with %s", c.refusals[kind], kind)
	}
	return b.String()
}

// closeTargets compares what the consumers have, and adds it up. all is all that there was; with partial its end need not have
// come.
func (c *chaos) closeTargets(ctx context.Context, all *reference, partial bool) error {
	dueTo := func(slot string) due {
		return due{reference: all.after(c.from[slot]), partial: partial}
	}
	stream, err := compareJournal(dueTo("stream").published, c.journal("stream"))
	if err != nil {
		return err
	}
	raw, err := compareJournal(dueTo("raw").raw, c.journal("raw"))
	if err != nil {
		return err
	}
	stream.ascending()
	c.total("stream").add(stream.result(partial))
	c.total("raw").add(raw.result(partial))
	for _, k := range c.children {
		v, err := c.verdictOf(ctx, k.order, all, dueTo(k.order.Slot), stream.positions)
		if err != nil {
			return fmt.Errorf("%s: %w", k.order.Slot, err)
		}
		c.total(k.order.Slot).add(v)
	}
	return nil
}

// verdictOf compares what a child has, or what it wrote to. positions are those of what was due to the consumer stream, whose slot
// began where the child's did.
func (c *chaos) verdictOf(ctx context.Context, order childOrder, all *reference, d due, positions []string) (verdict, error) {
	switch order.Slot {
	case "checkpoint":
		return c.verdictOfKept(order, all, d.partial)
	case "files":
		return compareFiles(d, order.Target)
	case "postgres":
		d.base = all.cut(c.from[order.Slot]).rows()
		return comparePostgres(ctx, d, positions, c.cluster.SocketDSN(), c.replicaDSN())
	case "jetstream":
		return compareJetStream(ctx, d, c.target(order.Slot).direct, natsStream(order.Generation))
	case "kafka":
		return compareKafka(ctx, d, c.target(order.Slot).direct)
	}
	want := d.published
	if order.Slot == "child" {
		want = withoutEnds(want)
	}
	cmp, err := compareJournal(want, order.Target)
	if err != nil {
		return verdict{}, err
	}
	cmp.ascending()
	return cmp.result(d.partial), nil
}

func (c *chaos) verdictOfKept(order childOrder, all *reference, partial bool) (verdict, error) {
	v, inside, err := compareKept(order.Target, func(from walchan.LSN) due {
		return due{all.after(from), all.cut(from).rows(), partial}
	})
	c.total(order.Slot).inside += inside
	return v, err
}

func compareJournal(want []string, path string) (*comparison, error) {
	cmp := newComparison(want)
	return cmp, readJournal(path, cmp.take)
}

// withoutEnds leaves out what a stream without WithTransactions does not deliver.
func withoutEnds(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(s string) bool {
		_, s, _ = strings.Cut(s, " ")
		return s == "BEGIN" || strings.HasPrefix(s, "COMMIT ")
	})
}

// checkLedger compares the reference with the table in which each transaction has noted how many changes it made, and with
// what the writers know to be committed.
func (c *chaos) checkLedger(ctx context.Context, ref *reference) (wrong []string, err error) {
	conn, err := pgconn.Connect(ctx, c.cluster.SocketDSN())
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows := conn.ExecParams(ctx, "SELECT tx::text, changes::text FROM ledger", nil, nil, nil, nil).Read()
	if rows.Err != nil {
		return nil, rows.Err
	}
	for _, row := range rows.Rows {
		if tx, ok := ref.ledger[string(row[0])]; !ok || fmt.Sprint(tx.changes) != string(row[1]) {
			wrong = append(wrong, fmt.Sprintf("the reference has %d changes of transaction %s, which made %s", tx.changes, row[0], row[1]))
		}
	}
	if len(rows.Rows) != len(ref.ledger) {
		wrong = append(wrong, fmt.Sprintf("the reference has %d transactions, the ledger %d", len(ref.ledger), len(rows.Rows)))
	}
	for _, tx := range c.traffic.takeSure() {
		if _, ok := ref.ledger[fmt.Sprint(tx)]; !ok {
			wrong = append(wrong, fmt.Sprintf("transaction %d was committed and is not in the reference", tx))
		}
	}
	return wrong, nil
}

// checkConfirmed makes sure that the server was told of everything, the last transaction included. A consumer with checkpoints
// confirms only up to the last published transaction.
func (c *chaos) checkConfirmed(ctx context.Context, ref *reference) (wrong []string, err error) {
	for _, slot := range slots {
		at, err := c.query(ctx, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
		if err != nil {
			return nil, err
		}
		end := ref.end
		if checkpointed[slot] {
			end = ref.ends[len(ref.ends)-1]
		}
		if lsn, err := walchan.ParseLSN(at); err != nil || lsn < end {
			wrong = append(wrong, fmt.Sprintf("slot %s has confirmed %s, not everything up to %s", slot, at, end))
		}
	}
	return wrong, nil
}

func (r *report) print(out io.Writer) {
	t := r.traffic
	total := 0
	for kind, n := range r.counts {
		if kind != healed {
			total += n
		}
	}
	fmt.Fprintf(out, "seed %d: %d faults in %v, %d transactions (%d large; %d more rolled back, %d broken off), %d messages due\n",
		r.seed, total, r.took.Round(time.Second), t.committed.Load(), t.large.Load(), t.rolledBack.Load(), t.broken.Load(), r.changes)
	kinds := make([]string, 0, len(r.counts))
	for kind := range r.counts {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		fmt.Fprintf(out, "  %-28s %4d\n", kind, r.counts[kind])
	}
	fmt.Fprintf(out, "fail-overs: %s\n", r.failovers)
	for i, slot := range slots {
		v := r.totals[slot]
		fmt.Fprintf(out, "%-10s %9d delivered, %d lost, %d repeated, %d reordered, %d invented, %d misplaced", slot, v.Delivered,
			v.Lost, v.Repeated, v.Reordered, v.Invented, v.Misplaced)
		switch {
		case i < inThisProcess:
			fmt.Fprintf(out, "; %d reconnects", v.reconnects)
		case slot == "checkpoint":
			fmt.Fprintf(out, "; %d lives, %d of them from the middle of a transaction on", v.Lives, v.inside)
		default:
			fmt.Fprintf(out, "; %d lives, %d again in a later one", v.Lives, v.Again)
		}
		if v.Late > 0 {
			fmt.Fprintf(out, ", %d times late", v.Late)
		}
		fmt.Fprintln(out)
		for _, complaint := range v.Complaints {
			fmt.Fprintf(out, "  %s\n", complaint)
		}
	}
	if n := len(r.catchUps); n > 0 {
		fmt.Fprintf(out, "caught up %d times, after %v at most; the server stopped after %v at most\n", n, slices.Max(r.catchUps).Round(time.Millisecond), r.stop)
	}
	for _, w := range r.wrong[:min(len(r.wrong), 20)] {
		fmt.Fprintf(out, "wrong: %s\n", w)
	}
}

// situation describes a run that went wrong, for a person.
func (c *chaos) situation() error {
	var b strings.Builder
	for _, k := range c.streams() {
		if k != nil {
			fmt.Fprintf(&b, "%s: %+v\n", k.name, k.stream.Stats())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, view := range []string{"pg_replication_slots", "pg_stat_replication", "pg_stat_activity"} {
		rows, err := c.query(ctx, "SELECT string_agg(v::text, E'\\n') FROM "+view+" v")
		fmt.Fprintf(&b, "%s (%v):\n%s\n", view, err, rows)
	}
	for _, k := range c.children {
		k.signal(ctx, syscall.SIGQUIT) // its goroutines go into its log
	}
	fmt.Fprintf(&b, "goroutines:\n%s\n", stacks())
	return errors.New(b.String())
}

func stacks() []byte {
	b := make([]byte, 1<<22)
	return b[:runtime.Stack(b, true)]
}

// leaks returns the goroutines and the processes of the servers that are left after a run; both may take a moment to end.
func leaks(dataDirs []string) (left []string) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left = goroutines()
		for _, dir := range dataDirs {
			left = append(left, serverProcesses(dir)...)
		}
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

func goroutines() (left []string) {
	all := strings.Split(string(stacks()), "\n\n")
	for _, g := range all[1:] { // the first is ours
		for _, known := range []string{"testing.(*T).Run(", "testing.(*M).", "testing.tRunner.func", "os/signal.", "runtime.ensureSigM"} {
			if strings.Contains(g, known) {
				g = ""
			}
		}
		if g != "" {
			left = append(left, g)
		}
	}
	return left
}

// serverProcesses finds the processes that work in the server's data directory, as all of PostgreSQL's do, where the system
// says that (Linux).
func serverProcesses(dataDir string) (left []string) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if cwd, _ := os.Readlink("/proc/" + d.Name() + "/cwd"); cwd != "" && strings.HasPrefix(cwd, dataDir) {
			left = append(left, "process "+d.Name()+" in "+cwd)
		}
	}
	return left
}
