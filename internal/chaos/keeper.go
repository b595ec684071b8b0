package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/walchan/walchan"
)

// The consumer "checkpoint" keeps each message and its checkpoint in one line of a file, and continues after the last one. So it
// has each message exactly once, whenever its process is killed.
//
// A line is "checkpoint<TAB>position<TAB>content". The checkpoint is unchanged if the message has none. A target that begins with
// rows has a line for each: "unchanged<TAB>row<TAB>READ version". The rows start over at each SNAPSHOT.
type kept struct {
	journal *journal
	last    string // checkpoint; "": none
}

const (
	sameCheckpoint = "-"
	snapshotBegins = "SNAPSHOT"
	snapshotEnds   = "SNAPSHOT END"
	rowRead        = "READ "
)

// openKept begins another life.
func openKept(path string) (*kept, error) {
	j, err := openJournal(path)
	if err != nil {
		return nil, err
	}
	last, err := lastCheckpoint(path)
	return &kept{j, last}, err
}

// lastCheckpoint returns the last one in a file. Behind it there may be many lines without.
func lastCheckpoint(path string) (last string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	for tail := int64(1 << 16); ; tail *= 8 {
		start := max(size-tail, 0)
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return "", err
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for first := start > 0; lines.Scan(); first = false {
			if checkpoint, _, ok := strings.Cut(lines.Text(), "\t"); ok && !first && checkpoint != sameCheckpoint {
				last = checkpoint
			}
		}
		if err := lines.Err(); err != nil || last != "" || start == 0 {
			return last, err
		}
	}
}

func (k *kept) checkpoint() (walchan.Checkpoint, error) {
	if k.last == "" {
		return walchan.Checkpoint{}, nil
	}
	return walchan.ParseCheckpoint(k.last)
}

// add notes a message. flush writes it.
func (k *kept) add(m walchan.Message) error {
	checkpoint := m.Checkpoint()
	if _, err := checkpoint.Value(); err != nil {
		return err
	}
	said := sameCheckpoint
	if !checkpoint.IsZero() {
		said = checkpoint.String()
	}
	position, text := "", ""
	switch m.Kind {
	case walchan.SnapshotBegin:
		text = snapshotBegins
	case walchan.SnapshotEnd:
		text = snapshotEnds
	case walchan.Read:
		position, text = readRow(m)
	case walchan.Progress:
	default:
		s := seeMessage(m)
		position, text = s.position, s.content
	}
	fmt.Fprintf(&k.journal.buf, "%s\t%s\t%s\n", said, position, text)
	return nil
}

// readRow describes a row that was read as an effect does.
func readRow(m walchan.Message) (row, content string) {
	values := map[string]string{}
	for i, c := range m.Relation.Columns {
		switch values[c.Name] = "null"; m.New().State(i) {
		case walchan.Null, walchan.Unchanged:
		default:
			values[c.Name] = m.New().Text(i)
		}
	}
	row, version := versionOf(m.Relation.Name, values)
	return row, rowRead + version
}

// keepCheckpoints receives, writes down, and only then acknowledges.
func keepCheckpoints(ctx context.Context, order childOrder) error {
	k, err := openKept(order.Target)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(order.Seed, 0))
	stream, err := continueKept(ctx, order, k, rng)
	if err != nil {
		return err
	}
	defer stream.Close()
	most, pause := 1+rng.IntN(500), time.Now()
	for open := true; open; {
		var batch []walchan.Message
		batch, open = receiveSome(stream, 1+rng.IntN(most))
		for _, m := range batch {
			if err := k.add(m); err != nil {
				return err
			}
		}
		if err := k.journal.flush(); err != nil {
			return err
		}
		if now := time.Now(); now.After(pause) { // now and then it is slow: it may be killed between storing and acknowledging
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
			pause = now.Add(time.Duration(1000+rng.IntN(10_000)) * time.Millisecond)
		}
		rng.Shuffle(len(batch), func(i, k int) { batch[i], batch[k] = batch[k], batch[i] })
		for _, m := range batch {
			stream.Ack(m)
			if m.Relation == nil || m.Relation.Name != "marker" {
				continue
			}
			if n, ok := markerIn(content(m)); ok {
				fmt.Println(n)
			}
		}
		fmt.Println(progress)
	}
	return errors.Join(stream.Err(), stream.Close(), k.journal.close())
}

// continueKept subscribes as the order says. How the server sends a transaction makes no difference to its checkpoints.
func continueKept(ctx context.Context, order childOrder, k *kept, rng *rand.Rand) (*walchan.Stream, error) {
	opts := []walchan.Option{walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return k.checkpoint() })}
	if rng.IntN(2) == 0 {
		opts = append(opts, walchan.WithStreaming())
	}
	if order.Failover {
		opts = append(opts, walchan.WithFailover())
	}
	if order.From != "" {
		from, err := walchan.ParseLSN(order.From)
		if err != nil {
			return nil, err
		}
		return subscribeAgain(ctx, order, append(opts, walchan.WithFrom(from))...)
	}
	// Once something is stored, a slot that is missing must not be made all the same.
	opts = append(opts, walchan.WithCreateSlot())
	if order.Generation > 1 {
		opts = append(opts, walchan.WithSnapshot())
	}
	if order.Lost == "" {
		return subscribeAgain(ctx, order, opts...)
	}
	lost, err := walchan.ParseCheckpoint(order.Lost)
	if err != nil {
		return nil, err
	}
	return again(ctx, order, func(ctx context.Context, dsn string, opts ...walchan.Option) (*walchan.Stream, error) {
		return walchan.SubscribeAnew(ctx, dsn, lost, opts...)
	}, opts...)
}

// compareKept compares a file with what is due from the target's beginning on. Only the file knows that position. inside is how
// many lives went on in the middle of a transaction.
func compareKept(path string, dueFrom func(walchan.LSN) due) (v verdict, inside int, err error) {
	var lines []keptLine
	err = readKept(path, func(l keptLine) {
		if l.text == snapshotBegins {
			lines = lines[:0] // what was before is void
		}
		lines = append(lines, l)
	})
	if err != nil {
		return v, 0, err
	}
	d := dueFrom(beginningOf(lines))
	cmp := newComparison(withoutEnds(d.published))
	cmp.once = true
	cmp.take(seen{start: true})
	rows, last, fresh := rowStates{}, place{}, false
	for _, l := range lines {
		if version, ok := strings.CutPrefix(l.text, rowRead); ok {
			if _, twice := rows[l.position]; twice {
				cmp.complain(&cmp.Repeated, "repeated: the row %s was read twice", l.position)
			}
			rows[l.position] = version
			cmp.Delivered++
			continue
		}
		switch {
		case l.start:
			cmp.take(seen{start: true})
			fresh = true
		case l.position != "":
			cmp.take(seen{position: l.position, content: l.text})
			cmp.checkCheckpoint(l)
			at, err := parsePlace(l.position)
			if err != nil {
				return v, 0, err
			}
			if fresh && at.Commit == last.Commit {
				inside++
			}
			last, fresh = at, false
		}
	}
	cmp.compareRead(d.base, rows)
	cmp.ascending()
	return cmp.result(d.partial), inside, nil
}

type keptLine struct {
	start                      bool
	checkpoint, position, text string
}

func readKept(path string, f func(keptLine)) error {
	return readJournal(path, func(s seen) {
		position, text, _ := strings.Cut(s.content, "\t")
		f(keptLine{s.start, s.position, position, text})
	})
}

// beginningOf returns where the slot of a target begins that began with rows; 0 if it did not.
func beginningOf(lines []keptLine) walchan.LSN {
	for _, l := range lines {
		if l.text == snapshotEnds {
			return throughOf(l.checkpoint)
		}
	}
	return 0
}

// throughOf reads the field of a checkpoint that says up to where everything is contained.
func throughOf(checkpoint string) walchan.LSN {
	fields := strings.Split(checkpoint, ":")
	if len(fields) < 7 {
		return 0
	}
	lsn, err := walchan.ParseLSN(strings.TrimSuffix(fields[6], "m"))
	if err != nil {
		return 0
	}
	return lsn
}

// checkCheckpoint makes sure that a message's checkpoint says its position.
func (c *comparison) checkCheckpoint(l keptLine) {
	cp, err := walchan.ParseCheckpoint(l.checkpoint)
	if err != nil || cp.Position().String() != l.position {
		c.complain(&c.Misplaced, "misplaced: %s is the checkpoint of %s: %s (%v)", l.checkpoint, l.position, l.text, err)
	}
}

// compareRead compares the rows of a snapshot with those of the source.
func (c *comparison) compareRead(want, got rowStates) {
	for row, version := range want {
		if got[row] != version {
			c.complain(&c.Lost, "lost: %s was read as %q, and is %q", row, got[row], version)
		}
	}
	for row, version := range got {
		if _, ok := want[row]; !ok {
			c.complain(&c.Invented, "invented: %s was read as %q", row, version)
		}
	}
}
