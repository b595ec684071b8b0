package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/resume"
)

// receiver is the side of the contender: what to receive, and what it counts.
type receiver struct {
	dsn, slot   string
	commit, end pglogrepl.LSN // of the last transaction
	hold        int           // messages that are not acknowledged until as many others have come
	pause       time.Duration // after pauseAt messages
	messages    int
	idle        int64 // resident memory before the first message, bytes
}

const pauseAt = 100_000

// tally is what a contender written here prints when it has received everything.
type tally struct {
	Messages int    `json:"messages"`
	Mallocs  uint64 `json:"mallocs"`
	Bytes    uint64 `json:"bytes"` // allocated
	Idle     int64  `json:"idle"`  // resident memory before the first message, bytes; 0: not known
}

// contend is one run of a contender written in Go, in a process of its own.
func contend(ctx context.Context, flags *flag.FlagSet, args []string) (err error) {
	var r receiver
	flags.StringVar(&r.dsn, "dsn", "", "connection string")
	flags.StringVar(&r.slot, "slot", "", "replication slot")
	flags.Func("commit", "LSN of the last transaction's commit record", func(s string) error { return r.commit.Scan(s) })
	flags.Func("end", "end of the last transaction", func(s string) error { return r.end.Scan(s) })
	flags.IntVar(&r.hold, "hold", 0, "how many messages to leave unacknowledged (walchan)")
	flags.DurationVar(&r.pause, "pause", 0, "how long to stop receiving in the middle (walchan)")
	streams := flags.Int("streams", 1, "how many streams, of slots run0, run1 …, if more than one")
	profile := flags.String("profile", "", "file for a CPU profile")
	flags.Parse(args)
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	receive := receivers[flags.Arg(0)]
	if receive == nil {
		return fmt.Errorf("no contender %q", flags.Arg(0))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if *streams == 1 {
		err = receive(ctx, &r)
	} else {
		err = r.each(*streams, func(r *receiver) error { return receive(ctx, r) })
	}
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	return json.NewEncoder(os.Stdout).Encode(tally{r.messages, after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc, r.idle})
}

// each has n receivers at work together.
func (r *receiver) each(n int, receive func(*receiver) error) error {
	all, errs := make([]receiver, n), make([]error, n)
	var running sync.WaitGroup
	for i := range all {
		all[i] = *r
		all[i].slot = fmt.Sprintf("%s%d", r.slot, i)
		running.Go(func() { errs[i] = receive(&all[i]) })
	}
	running.Wait()
	for i := range all {
		r.messages += all[i].messages
	}
	return errors.Join(errs...)
}

var receivers = map[string]func(context.Context, *receiver) error{
	"walchan":             func(ctx context.Context, r *receiver) error { return contendWalchan(ctx, r, false) },
	"walchan-scan":        func(ctx context.Context, r *receiver) error { return contendWalchan(ctx, r, true) },
	"walchan-batches":     func(ctx context.Context, r *receiver) error { return contendCheckpoints(ctx, r, true) },
	"walchan-checkpoints": func(ctx context.Context, r *receiver) error { return contendCheckpoints(ctx, r, false) },
	"pglogrepl":           func(ctx context.Context, r *receiver) error { return contendPlain(ctx, r, false) },
	"pglogrepl-values":    func(ctx context.Context, r *receiver) error { return contendPlain(ctx, r, true) },
}

var errEarly = errors.New("the stream ended before the work did")

func contendWalchan(ctx context.Context, r *receiver, scan bool) error {
	s, err := walchan.Subscribe(ctx, r.dsn, walchan.WithSlot(r.slot), walchan.WithPublication(publication),
		walchan.WithMaxUnacked(max(1<<20, 2*r.hold)), walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer s.Close()
	var row five
	held := make([]walchan.Receipt, r.hold) // a ring
	r.idle = residentMemory(os.Getpid(), "VmRSS:")
	for m := range s.C() {
		if r.messages++; r.messages == pauseAt {
			time.Sleep(r.pause)
		}
		if scan && m.Relation.Name == "work" {
			if err := m.New().Scan(&row); err != nil {
				return err
			}
		}
		last := m.Tx.CommitLSN >= r.commit
		if r.hold == 0 {
			s.Ack(m)
		} else {
			oldest := &held[r.messages%r.hold]
			oldest.Ack()
			*oldest = m.Receipt()
		}
		if last {
			s.AckThrough(m)
			return s.Close()
		}
	}
	return errors.Join(s.Err(), errEarly)
}

// contendCheckpoints makes the text of a checkpoint for each transaction, or for each batch of messages.
func contendCheckpoints(ctx context.Context, r *receiver, batches bool) error {
	const batch = 100
	began, err := beginning(ctx, r)
	if err != nil {
		return err
	}
	s, err := walchan.Subscribe(ctx, r.dsn, walchan.WithSlot(r.slot), walchan.WithPublication(publication), walchan.WithCheckpoint(began),
		walchan.WithMaxUnacked(1<<20), walchan.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer s.Close()
	r.idle = residentMemory(os.Getpid(), "VmRSS:")
	var tx *walchan.Tx
	for m := range s.C() {
		if m.Tx == nil {
			s.Ack(m)
			continue
		}
		r.messages++
		last := m.Tx.CommitLSN >= r.commit
		if last || batches && r.messages%batch == 0 || !batches && m.Tx != tx {
			tx = m.Tx
			_ = m.Checkpoint().String()
			s.Ack(m)
		} else {
			s.Skip(m)
		}
		if last {
			return s.Close()
		}
	}
	return errors.Join(s.Err(), errEarly)
}

// beginning is a checkpoint as older versions stored it: a position alone, with which any slot is continued.
func beginning(ctx context.Context, r *receiver) (walchan.Checkpoint, error) {
	conn, err := admin.Connect(ctx, r.dsn)
	if err != nil {
		return walchan.Checkpoint{}, err
	}
	defer conn.Close()
	system, err := conn.System(ctx)
	if err != nil {
		return walchan.Checkpoint{}, err
	}
	c := resume.Checkpoint{Origin: resume.Origin{SystemID: system.ID, Database: system.Database, Slot: r.slot}, Point: resume.Point{Commit: 1, Ordinal: 1}}
	return walchan.ParseCheckpoint(c.String())
}

// five is a row of five columns.
type five struct {
	ID       int64
	Customer int32
	Name     string
	Price    pgtype.Numeric
	At       time.Time
}
