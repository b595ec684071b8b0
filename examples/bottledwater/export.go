package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/walchan/walchan"
)

// exporter writes messages to an output, and acknowledges what is there to stay.
type exporter struct {
	out          *output
	format       format
	skip         bool // rows that cannot be exported
	allowUnkeyed bool
	bar          *bar

	buf     []byte
	last    walchan.Message
	pending bool // last, and what came before, is not acknowledged

	ended bool // the snapshot's last message is acknowledged
}

const (
	writeSize = 256 << 10              // from how many bytes on they are written
	writeWait = 200 * time.Millisecond // how long it may take until they are, if more comes all the time
)

// run exports until the stream ends. A batch is what is there: the more there is, the fewer writes.
func (x *exporter) run(s *walchan.Stream) error {
	defer x.bar.end()
	tick := time.NewTicker(writeWait)
	defer tick.Stop()
	began := time.Now()
	for {
		var msg walchan.Message
		open := true
		select {
		case msg, open = <-s.C():
		default:
			if err := x.write(s); err != nil {
				return err
			}
			x.show(s)
			select {
			case msg, open = <-s.C():
			case <-tick.C:
				if err := x.settle(s); err != nil {
					return err
				}
				x.show(s)
				continue
			}
			began = time.Now()
		}
		if !open {
			return errors.Join(x.write(s), s.Err())
		}
		if err := x.take(msg); err != nil {
			return errors.Join(err, x.write(s)) // what was before
		}
		if len(x.buf) >= writeSize || time.Since(began) > writeWait || msg.Kind == walchan.SnapshotEnd {
			if err := x.write(s); err != nil {
				return err
			}
			x.show(s)
			began = time.Now()
		}
	}
}

// show shows how far the snapshot has come.
func (x *exporter) show(s *walchan.Stream) {
	if x.bar.isDue() {
		x.bar.show(s.Stats().Snapshot)
	}
}

// take encodes a message, into the buffer.
func (x *exporter) take(msg walchan.Message) error {
	if msg.Kind == walchan.SnapshotBegin {
		if err := x.restart(msg.Snapshot().Attempt); err != nil {
			return err
		}
	}
	err := x.encode(msg)
	if err != nil && !x.skip {
		return fmt.Errorf("%s: %w; -on-error log skips such rows", msg, err)
	}
	if err != nil {
		note("skipped: %s: %v", msg, err)
	}
	x.last, x.pending = msg, true
	return nil
}

// restart is for the beginning of a snapshot: what was exported of an earlier attempt is void. From a file it is removed.
func (x *exporter) restart(attempt int) error {
	x.ended = false
	truncated, err := x.out.restart()
	switch {
	case err != nil:
		return err
	case truncated:
		x.buf = x.buf[:0]
		return x.format.Restart()
	case attempt > 1:
		note("the connection was lost, and the snapshot with it: its rows start over, forget those before")
	}
	return nil
}

func (x *exporter) encode(msg walchan.Message) (err error) {
	if msg.Relation != nil && !x.allowUnkeyed && !keyed(msg.Relation) {
		return fmt.Errorf("%w (it was made since the start?): give it a primary key or a REPLICA IDENTITY, or allow it (-allow-unkeyed)", errUnkeyed)
	}
	x.buf, err = x.format.Append(x.buf, msg)
	return err
}

func keyed(rel *walchan.Relation) bool {
	for i := range rel.Columns {
		if rel.Columns[i].Key {
			return true
		}
	}
	return false
}

// write writes the buffer, durably, and acknowledges what is in it.
func (x *exporter) write(s *walchan.Stream) error {
	if !x.pending {
		return nil
	}
	var err error
	if x.buf, err = x.format.Flush(x.buf); err != nil {
		return err
	}
	if err := x.out.write(x.buf); err != nil {
		return err
	}
	x.ended = x.ended || x.last.Kind == walchan.SnapshotEnd
	s.AckThrough(x.last)
	x.buf, x.pending = x.buf[:0], false
	return x.settle(s)
}

// settle gives the file its name, once the slot exists: see output.
func (x *exporter) settle(s *walchan.Stream) error {
	if !x.ended {
		return nil
	}
	if state := s.Stats().State; state != walchan.StateStreaming && state != walchan.StateIdle {
		return nil
	}
	x.ended = false
	return x.out.settle()
}
