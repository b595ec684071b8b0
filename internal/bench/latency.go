package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// delays is what a contender prints: how long after a transaction's commit its row was in the consumer's hands.
type delays struct {
	Count          int
	P50, P99, P999 time.Duration
}

const warmUp = time.Second // not counted

var lateReceivers = map[string]func(context.Context, *receiver, *clock) error{
	"walchan":   lateWalchan,
	"pglogrepl": latePlain,
}

// latency measures how long after the commit a change arrives, at a low and at a higher rate of small transactions. The
// commit's time is the one that the server has put into the log: its clock is the consumer's, too.
func latency(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var e entry
	e.flags(flags)
	rates := flags.String("rates", "100,5000", "transactions a second, comma-separated")
	seconds := flags.Int("seconds", 10, "how long each contender receives")
	flags.Parse(args)
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	if err := srv.exec(ctx, "CREATE TABLE work (id int)", "CREATE TABLE finish (id int)", "CREATE PUBLICATION "+publication+" FOR ALL TABLES"); err != nil {
		return err
	}
	rep := &report{}
	fmt.Fprintf(&rep.page, "# Latency\n\n")
	rep.say("Measured by `make bench` on %s, with PostgreSQL %s (fsync off) over TCP.", machine(), srv.conn.ParameterStatus("server_version"))
	rep.say("From the server's commit to the consumer's hands, for transactions of one row, made by pgbench at a constant mean rate on the same machine. "+
		"Medians of %d rounds of %d s, with their range.", e.rounds, *seconds)
	names := []string{"walchan", "pglogrepl"}
	for field := range strings.SplitSeq(*rates, ",") {
		rate, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		results := map[string][]delays{}
		for round := range e.rounds {
			for i := range names {
				name := names[(round+i)%len(names)]
				d, err := srv.late(ctx, name, rate, *seconds)
				if err != nil {
					return fmt.Errorf("latency, %s: %w", name, err)
				}
				fmt.Fprintf(os.Stderr, "%d transactions/s, round %d, %s: p50 %v, p99 %v, p99.9 %v\n", rate, round+1, name, d.P50, d.P99, d.P999)
				results[name] = append(results[name], d)
			}
		}
		rep.addDelays(rate, names, results)
	}
	return rep.write(e.out, "latency")
}

func (r *report) addDelays(rate int, names []string, results map[string][]delays) {
	fmt.Fprintf(&r.page, "## %d transactions a second\n\n| | p50 | p99 | p99.9 |\n|---|--:|--:|--:|\n", rate)
	for _, name := range names {
		fmt.Fprintf(&r.page, "| %s |", name)
		for _, get := range []func(delays) time.Duration{
			func(d delays) time.Duration { return d.P50 },
			func(d delays) time.Duration { return d.P99 },
			func(d delays) time.Duration { return d.P999 },
		} {
			var v []float64
			for _, d := range results[name] {
				v = append(v, float64(get(d)))
			}
			fmt.Fprintf(&r.page, " %s (%s–%s) |", microseconds(median(v)), microseconds(slices.Min(v)), microseconds(slices.Max(v)))
		}
		r.page.WriteString("\n")
	}
	r.page.WriteString("\n")
}

func microseconds(ns float64) string { return fmt.Sprintf("%.0f µs", ns/1e3) }

// late has one contender receive what pgbench writes meanwhile.
func (s *server) late(ctx context.Context, name string, rate, seconds int) (d delays, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+time.Minute)
	defer cancel()
	if err := s.exec(ctx, "SELECT pg_create_logical_replication_slot('run', 'pgoutput')"); err != nil {
		return d, err
	}
	exe, err := os.Executable()
	if err != nil {
		return d, err
	}
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, exe, "late", "-dsn", s.dsn(tcp), "-slot", "run", name)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Start(); err != nil {
		return d, err
	}
	err = s.write(ctx, rate, seconds)
	if err == nil {
		err = s.exec(ctx, "SET synchronous_commit = on", "INSERT INTO finish VALUES (1)")
	}
	if err != nil {
		cancel()
	}
	if waitErr := cmd.Wait(); waitErr != nil {
		return d, errors.Join(err, fmt.Errorf("%w: %s", waitErr, log.Bytes()))
	}
	if _, err := s.closeSlot(ctx, "run"); err != nil {
		return d, err
	}
	return d, json.Unmarshal(out.Bytes(), &d)
}

// write commits transactions of one row, and waits for the log to be written: a walsender sends nothing before.
func (s *server) write(ctx context.Context, rate, seconds int) error {
	script, err := os.CreateTemp("", "bench-*.sql")
	if err != nil {
		return err
	}
	defer os.Remove(script.Name())
	if _, err := script.WriteString("INSERT INTO work VALUES (1);\n"); err != nil {
		return err
	}
	if err := script.Close(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.bin("pgbench"), "--no-vacuum", "--file", script.Name(), "--protocol", "prepared",
		"--client", "4", "--rate", strconv.Itoa(rate), "--time", strconv.Itoa(seconds), s.SocketDSN())
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c synchronous_commit=on")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgbench: %w: %s", err, out)
	}
	return nil
}

// clock collects the delays in the contender's process.
type clock struct {
	began time.Time
	all   []time.Duration
}

func (c *clock) received(committed time.Time) {
	now := time.Now()
	if c.began.IsZero() {
		c.began = now
	}
	if now.Sub(c.began) > warmUp {
		c.all = append(c.all, now.Sub(committed))
	}
}

func (c *clock) delays() delays {
	slices.Sort(c.all)
	at := func(q float64) time.Duration { return c.all[int(q*float64(len(c.all)))] }
	return delays{len(c.all), at(0.5), at(0.99), at(0.999)}
}

// late is one run of a contender, in a process of its own.
func late(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var r receiver
	flags.StringVar(&r.dsn, "dsn", "", "connection string")
	flags.StringVar(&r.slot, "slot", "", "replication slot")
	flags.Parse(args)
	var c clock
	if err := lateReceivers[flags.Arg(0)](ctx, &r, &c); err != nil {
		return err
	}
	if len(c.all) == 0 {
		return errEarly
	}
	return json.NewEncoder(os.Stdout).Encode(c.delays())
}

func lateWalchan(ctx context.Context, r *receiver, c *clock) error {
	s, err := walchan.Subscribe(ctx, r.dsn, walchan.WithSlot(r.slot), walchan.WithPublication(publication), walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer s.Close()
	for m := range s.C() {
		if m.Relation.Name == "finish" {
			return s.Close()
		}
		c.received(m.Tx.CommitTime)
		s.Ack(m)
	}
	return errors.Join(s.Err(), errEarly)
}

func latePlain(ctx context.Context, r *receiver, c *clock) error {
	cfg, err := pgconn.ParseConfig(r.dsn + " replication=database")
	if err != nil {
		return err
	}
	p, err := newPlain(ctx, cfg, r.slot)
	if err != nil {
		return err
	}
	loop, stop := context.WithCancel(ctx)
	defer stop()
	go p.run(loop)
	var committed time.Time
	finish := false
	for m := range p.c {
		switch m := m.Message.(type) {
		case *pglogrepl.BeginMessage:
			committed = m.CommitTime
		case *pglogrepl.RelationMessage:
			finish = m.RelationName == "finish"
		case *pglogrepl.InsertMessage:
			if finish {
				stop()
				for range p.c { // until the loop has ended
				}
				return finishPlain(ctx, p)
			}
			c.received(committed)
		case *pglogrepl.CommitMessage:
			p.done.Store(uint64(m.TransactionEndLSN))
		}
	}
	return p.err
}
