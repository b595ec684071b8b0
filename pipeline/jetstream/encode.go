package jetstream

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/kit"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/encode"
)

// outgoing is a message to publish.
type outgoing struct {
	item    int // of the batch
	subject string
	data    []byte
	id      string // "": it has no position
	mark    mark
}

// header returns the headers of o, which is to follow the message of that sequence.
func (s *Sink) header(o *outgoing, after string) nats.Header {
	h := nats.Header{
		natsjs.ExpectedStreamHeader:  {s.stream},
		natsjs.ExpectedLastSeqHeader: {after},
	}
	o.mark.setHeader(h)
	if o.id != "" {
		h[natsjs.MsgIDHeader] = []string{o.id}
	}
	return h
}

// batch is a batch while it is encoded.
type batch struct {
	last  mark         // of the stream
	point resume.Point // of it
	next  mark         // once everything so far is published
	out   []outgoing
}

// encode returns the messages to publish, without the published ones. The last one has the checkpoint.
func (s *Sink) encode(messages []walchan.Message, c walchan.Checkpoint) ([]outgoing, error) {
	s.useDatabase(messages)
	b := batch{last: s.last, next: s.last, out: make([]outgoing, 0, len(messages))}
	if _, same := c.Compare(s.last.checkpoint); same { // else it is of a source that was given up
		var err error
		if b.point, err = s.last.point(); err != nil {
			return nil, err
		}
	}
	for i, m := range messages {
		if m.Tx != nil && m.Tx.GID != "" {
			return nil, backoff.Permanent(errors.New("the transaction is prepared, not committed: leave out walchan.WithTwoPhase"))
		}
		if m.Kind == walchan.Raw {
			return nil, backoff.Permanent(errors.New("messages of other output plugins have no positions: leave out walchan.WithPlugin"))
		}
		parts, err := s.parts(m)
		if err != nil {
			return nil, &pipeline.RefusedError{Item: i, Err: err}
		}
		var again uint32
		if m.Tx != nil && m.Tx.Redelivered {
			again = s.generation(m.Tx)
		}
		b.add(i, m, parts, again)
	}
	n, same := c.Compare(s.last.checkpoint)
	switch {
	case c.IsZero():
	case len(b.out) > 0:
		b.out[len(b.out)-1].mark.checkpoint = c
	case c != s.last.checkpoint && (n > 0 || !same || len(messages) == 0): // else all of the batch was there before
		b.next.checkpoint, b.next.of, b.next.parts = c, walchan.Position{}, 0
		b.out = append(b.out, outgoing{item: -1, subject: s.cfg.prefix + ".progress", data: fmt.Appendf(nil, `{"checkpoint":%q}`, c), mark: b.next})
	}
	return b.out, nil
}

// add adds the parts of a message. Only the last part has the checkpoint, because the message is delivered again if the process
// ends between two parts.
func (b *batch) add(item int, m walchan.Message, parts []outgoing, again uint32) {
	done := b.next
	done.of, done.parts, done.again = walchan.Position{}, 0, again
	if c := m.Checkpoint(); !c.IsZero() {
		done.checkpoint = c
	}
	p, ok := m.Position()
	whole := 0 // number of the last part
	for n, part := range parts {
		if len(part.data) > 0 {
			whole = n
		}
	}
	for n, part := range parts {
		if b.last.covers(b.point, m, uint32(n), again) {
			if n == whole {
				return
			}
			continue
		}
		if len(part.data) == 0 {
			continue
		}
		part.item, part.mark = item, done
		if ok && n < whole {
			part.mark.checkpoint, part.mark.of, part.mark.parts = b.next.checkpoint, p, uint32(n+1)
		}
		if ok {
			part.id = id(m, n, again)
		}
		b.out = append(b.out, part)
	}
	b.next = done
}

// id is the same whenever the part is published, in every process.
func id(m walchan.Message, part int, again uint32) string {
	s := m.ID()
	if part > 0 {
		s += "." + strconv.Itoa(part)
	}
	if again > 0 {
		s += "~" + strconv.Itoa(int(again))
	}
	return s
}

// useDatabase makes the default encoder, whose envelope names the database, once that is known.
func (s *Sink) useDatabase(messages []walchan.Message) {
	if s.cfg.encoder != nil {
		return
	}
	for _, m := range messages {
		if source, ok := kit.Source(m); ok {
			s.cfg.encoder = debezium(s.stream, source.(walchan.Source).Database)
			return
		}
	}
}

func debezium(stream, database string) Encoder {
	return encode.Debezium{Version: "walchan", Name: stream, Database: database}
}

// generation returns how often the transaction was sent differently, this time included.
func (s *Sink) generation(tx *walchan.Tx) uint32 {
	n, ok := s.again[tx]
	if !ok {
		for other, g := range s.again {
			if other.CommitLSN == tx.CommitLSN {
				n = max(n, g)
			}
		}
		if s.last.isOf(tx) {
			n = max(n, s.last.again)
		}
		n++
		s.again[tx] = n
	}
	return n
}

// parts encodes a message: one part, but for a Truncate of several tables.
func (s *Sink) parts(m walchan.Message) ([]outgoing, error) {
	if snapshot := m.Snapshot(); snapshot != nil {
		what := "begin"
		if m.Kind == walchan.SnapshotEnd {
			what = "end"
		}
		return []outgoing{{subject: s.cfg.prefix + ".snapshot", data: fmt.Appendf(nil, `{"snapshot":%q,"attempt":%d}`, what, snapshot.Attempt)}}, nil
	}
	encoder := s.cfg.encoder
	if encoder == nil {
		encoder = debezium(s.stream, "")
	}
	data, err := encoder.Append(nil, m)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Kind == walchan.Truncate:
		tables, _, _ := m.Truncated()
		lines := bytes.Split(data, []byte("\n"))
		if len(lines) != len(tables) {
			return nil, fmt.Errorf("encode %s: %d lines for %d tables", m, len(lines), len(tables))
		}
		parts := make([]outgoing, len(tables))
		for i, rel := range tables {
			parts[i] = outgoing{subject: s.subject(rel), data: lines[i]}
		}
		return parts, nil
	case m.Relation != nil:
		return []outgoing{{subject: s.subject(m.Relation), data: data}}, nil
	case m.Kind == walchan.LogicalMessage:
		return []outgoing{{subject: s.cfg.prefix + ".message", data: data}}, nil
	}
	return []outgoing{{subject: s.cfg.prefix + ".transaction", data: data}}, nil
}

func (s *Sink) subject(rel *walchan.Relation) string {
	return s.cfg.prefix + "." + token(rel.Schema) + "." + token(rel.Name)
}

// token makes a name one token of a subject ("Subject-Based Messaging" in NATS's documentation).
func token(name string) string {
	if !strings.ContainsFunc(name, special) {
		return name
	}
	var b strings.Builder
	for _, r := range name {
		if special(r) {
			fmt.Fprintf(&b, "%%%02X", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func special(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(".*>%", r) }
