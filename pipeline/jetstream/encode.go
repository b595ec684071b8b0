package jetstream

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// outgoing is a message to publish.
type outgoing struct {
	item    int // of the batch
	subject string
	data    []byte
	mark    mark // zero: it has no position
}

// header returns the headers of o, which is to follow the message of that sequence.
func (s *Sink) header(o *outgoing, after string) nats.Header {
	h := nats.Header{
		headerSource:                 {s.source},
		natsjs.ExpectedStreamHeader:  {s.stream},
		natsjs.ExpectedLastSeqHeader: {after},
	}
	if o.mark != (mark{}) {
		o.mark.setHeader(h)
		h[natsjs.MsgIDHeader] = []string{s.source + "/" + o.mark.String()}
	}
	return h
}

// encode returns what is to be published of a batch: what was not before.
func (s *Sink) encode(batch []walchan.Message) ([]outgoing, error) {
	out := make([]outgoing, 0, len(batch))
	for i, m := range batch {
		if m.Tx != nil && m.Tx.GID != "" {
			return nil, backoff.Permanent(errors.New("the transaction is prepared, not committed: leave out walchan.WithTwoPhase"))
		}
		p, ok := m.Position()
		redelivered := m.Tx != nil && m.Tx.Redelivered
		if m.Kind == walchan.Raw {
			return nil, backoff.Permanent(errors.New("messages of other output plugins have no positions: leave out walchan.WithPlugin"))
		}
		parts, err := s.parts(m)
		if err != nil {
			return nil, &pipeline.RefusedError{Item: i, Err: err}
		}
		for n, part := range parts {
			if len(part.data) == 0 {
				continue
			}
			part.item = i
			if ok {
				part.mark = mark{position: p, part: uint32(n)}
				if redelivered {
					part.mark.again = s.generation(m.Tx)
				}
				if s.last.covers(part.mark, redelivered) {
					continue
				}
			}
			out = append(out, part)
		}
	}
	return out, nil
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
		if s.last.position.Commit == tx.CommitLSN {
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
	data, err := s.cfg.encoder.Append(nil, m)
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
