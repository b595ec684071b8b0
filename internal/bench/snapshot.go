package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/walchan/walchan"
)

// snapshots are the tables that are read.
var snapshots = []struct {
	name, what, ddl, fill string
}{
	{"narrow", "an integer, a text of 32 characters, a timestamp and a numeric", "id bigint, v text, at timestamptz, n numeric",
		"SELECT g, md5(g::text), now() + g * interval '1 second', g / 7.0 FROM generate_series(1, %d) g"},
	{"accounts", "those of pgbench's accounts", "aid int PRIMARY KEY, bid int, abalance int, filler char(84)",
		"SELECT g, g / 100000, 0, '' FROM generate_series(1, %d) g"},
}

// tableReader is one way to read a table: psql, or walchan with so many workers.
type tableReader struct {
	name string
	jobs int // 0: psql
}

// snapshot measures how fast the rows of a table are read, next to psql writing them to /dev/null, in turns.
func snapshot(ctx context.Context, flags *flag.FlagSet, args []string) error {
	rounds := flags.Int("rounds", 5, "how often each reads")
	rows := flags.Int("rows", 2_000_000, "of each table")
	out := flags.String("out", "", "directory for the report; none: standard output only")
	flags.Parse(args)
	srv, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer srv.close()
	rep := &report{}
	fmt.Fprintf(&rep.page, "# Snapshot\n\n")
	rep.say("Measured by `go run ./internal/bench snapshot` on %s, with PostgreSQL %s (fsync off) over TCP.", machine(), srv.conn.ParameterStatus("server_version"))
	rep.say("Thousands of rows a second, of a table that is in memory: psql -c \"COPY … TO STDOUT\" >/dev/null, and WithSnapshot with each row delivered and "+
		"acknowledged by itself. Both times are those of the whole process. Medians of %d rounds in turns, with their range; ratios are of the same round.", *rounds)
	readers := []tableReader{{"psql", 0}, {"walchan, 1 job", 1}, {"walchan, 2 jobs", 2}}
	for _, table := range snapshots {
		name := "work_" + table.name
		if err := srv.exec(ctx, fmt.Sprintf("CREATE TABLE %s (%s)", name, table.ddl), fmt.Sprintf("INSERT INTO %s "+table.fill, name, *rows),
			"VACUUM (FREEZE, ANALYZE) "+name, fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s", name, name)); err != nil {
			return err
		}
		times := map[string][]float64{}
		for round := range *rounds {
			for i := range readers {
				r := readers[(round+i)%len(readers)]
				d, err := r.read(ctx, srv, name, *rows)
				if err != nil {
					return fmt.Errorf("snapshot, %s: %w", r.name, err)
				}
				fmt.Fprintf(os.Stderr, "%s, round %d, %s: %v\n", table.name, round+1, r.name, d.Round(time.Millisecond))
				times[r.name] = append(times[r.name], d.Seconds())
			}
		}
		fmt.Fprintf(&rep.page, "## %d rows of %s\n\n| | 1000 rows/s | of psql's |\n|---|--:|--:|\n", *rows, table.what)
		for _, r := range readers {
			var rates []float64
			for _, s := range times[r.name] {
				rates = append(rates, float64(*rows)/s/1000)
			}
			of := ratioOf(times["psql"], times[r.name])
			fmt.Fprintf(&rep.page, "| %s | %.0f (%.0f–%.0f) | %.2f (%.2f–%.2f) |\n", r.name, median(rates), slices.Min(rates), slices.Max(rates), of.Mean, of.Low, of.High)
		}
		rep.page.WriteString("\n")
	}
	return rep.write(*out, "snapshot")
}

// read has it read the table once.
func (r tableReader) read(ctx context.Context, srv *server, table string, rows int) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, srv.bin("psql"), "--no-psqlrc", "-c", "COPY "+table+" TO STDOUT", srv.dsn(tcp))
	if r.jobs > 0 {
		exe, err := os.Executable()
		if err != nil {
			return 0, err
		}
		cmd = exec.CommandContext(ctx, exe, "copy", "-dsn", srv.dsn(tcp), "-table", table, "-jobs", strconv.Itoa(r.jobs))
		cmd.Stderr = os.Stderr
		began := time.Now()
		out, err := cmd.Output()
		d := time.Since(began)
		if err != nil {
			return 0, err
		}
		n := 0
		if err := json.Unmarshal(out, &n); err != nil || n != rows {
			return 0, fmt.Errorf("%d rows and not %d (%v)", n, rows, err)
		}
		return d, nil
	}
	cmd.Stderr = os.Stderr // Stdout is /dev/null
	began := time.Now()
	err := cmd.Run()
	return time.Since(began), err
}

// copyTable is one run of walchan, in a process of its own.
func copyTable(ctx context.Context, flags *flag.FlagSet, args []string) error {
	dsn := flags.String("dsn", "", "connection string")
	table := flags.String("table", "", "table, and publication")
	jobs := flags.Int("jobs", 1, "workers")
	flags.Parse(args)
	s, err := walchan.Subscribe(ctx, *dsn, walchan.WithPublication(*table), walchan.WithSnapshot(), walchan.WithSnapshotJobs(*jobs),
		walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer s.Close()
	n := 0
	for m := range s.C() {
		s.Ack(m)
		switch m.Kind {
		case walchan.Read:
			n++
		case walchan.SnapshotEnd:
			return json.NewEncoder(os.Stdout).Encode(n)
		}
	}
	return s.Err()
}
