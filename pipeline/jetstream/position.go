package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
)

// Headers of what is published.
const (
	headerSource   = "Walchan-Source"   // cluster/database/slot
	headerPosition = "Walchan-Position" // not of a snapshot's rows
	headerPart     = "Walchan-Part"     // of the second and later messages that were made of one
	headerAgain    = "Walchan-Again"    // how often the transaction was sent differently
)

// mark is the place of a published message in the order of all.
type mark struct {
	position walchan.Position
	again    uint32
	part     uint32
}

// covers says whether the message at m was published when the one at last was.
func (last mark) covers(m mark, redelivered bool) bool {
	if redelivered && m.position.Commit == last.position.Commit && m.again != last.again {
		return m.again < last.again
	}
	c := m.position.Compare(last.position)
	return c < 0 || c == 0 && m.part <= last.part
}

func (m mark) String() string {
	s := m.position.String()
	if m.part > 0 {
		s += "." + strconv.Itoa(int(m.part))
	}
	if m.again > 0 {
		s += "~" + strconv.Itoa(int(m.again))
	}
	return s
}

func (m mark) setHeader(h nats.Header) {
	h[headerPosition] = []string{m.position.String()}
	if m.part > 0 {
		h[headerPart] = []string{strconv.Itoa(int(m.part))}
	}
	if m.again > 0 {
		h[headerAgain] = []string{strconv.Itoa(int(m.again))}
	}
}

// parseMark is the reverse of setHeader. The zero mark is that of a message without a position.
func parseMark(h nats.Header) (m mark, err error) {
	if h.Get(headerPosition) == "" {
		return m, nil
	}
	lsn, ordinal, _ := strings.Cut(h.Get(headerPosition), ":")
	m.position.Commit, err = walchan.ParseLSN(lsn)
	number := func(s string) uint32 {
		n, bad := strconv.ParseUint(cmp.Or(s, "0"), 10, 32)
		err = errors.Join(err, bad)
		return uint32(n)
	}
	m.position.Ordinal, m.part, m.again = number(ordinal), number(h.Get(headerPart)), number(h.Get(headerAgain))
	return m, err
}

func sourceHeader(s walchan.Source) string {
	return s.SystemID + "/" + url.PathEscape(s.Database) + "/" + url.PathEscape(s.Slot)
}

// describe makes a header Walchan-Source readable.
func describe(header string) string {
	parts := strings.SplitN(header, "/", 3)
	for i := range parts {
		if s, err := url.PathUnescape(parts[i]); err == nil {
			parts[i] = s
		}
	}
	if len(parts) < 3 {
		return header
	}
	return fmt.Sprintf("slot %q of database %q in cluster %s", parts[2], parts[1], parts[0])
}

// createStream creates the stream unless there is one.
func (s *Sink) createStream(ctx context.Context) error {
	cfg := natsjs.StreamConfig{Name: s.stream, Subjects: []string{s.cfg.prefix + ".>"}, Description: "changes of PostgreSQL, published by walchan"}
	s.cfg.create(&cfg)
	_, err := s.js.Stream(ctx, s.stream)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		_, err = s.js.CreateStream(ctx, cfg)
		if errors.Is(err, natsjs.ErrStreamNameAlreadyInUse) {
			return nil // another process was faster
		}
	}
	if err != nil {
		return fmt.Errorf("create the stream %q of JetStream: %w", s.stream, err)
	}
	return nil
}

// locate asks the server how far the sink has come.
func (s *Sink) locate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	stream, err := s.js.Stream(ctx, s.stream)
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return fmt.Errorf("%w: there is no stream %q; create it, or see WithCreateStream", ErrStream, s.stream)
	case err != nil:
		return fmt.Errorf("look up the stream %q of JetStream: %w", s.stream, err)
	}
	info := stream.CachedInfo()
	last := info.State.LastSeq
	switch {
	case info.Config.Retention != natsjs.LimitsPolicy:
		return fmt.Errorf("%w: %q drops messages once they are consumed (retention %s), and with them the position; publish into one with retention by limits, and have that one as its source",
			ErrStream, s.stream, strings.ToLower(info.Config.Retention.String()))
	case info.Config.NoAck:
		return fmt.Errorf("%w: %q does not confirm messages (no_ack)", ErrStream, s.stream)
	case last < s.sequence:
		return fmt.Errorf("%w: %q was confirmed up to message %d, and ends at %d; copy the tables anew", ErrLost, s.stream, s.sequence, last)
	}
	if last > s.sequence {
		if err := s.readLast(ctx, last); err != nil {
			return err
		}
	}
	s.sequence, s.sure = last, true
	return nil
}

// readLast takes the position from the stream's last message. It is the leader that is asked for it: another replica, which
// answers where the stream allows direct reads, may not have it yet.
func (s *Sink) readLast(ctx context.Context, sequence uint64) error {
	msg, err := s.leader.GetMsg(s.stream, sequence, nats.Context(ctx))
	if errors.Is(err, nats.ErrMsgNotFound) {
		s.cfg.log.Warn("the last message of the stream of JetStream was removed, and the position with it: what PostgreSQL sends again will be there again",
			"stream", s.stream, "sequence", sequence)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the last message of the stream %q of JetStream: %w", s.stream, err)
	}
	switch stored := msg.Header.Get(headerSource); stored {
	case s.source:
	case "":
		return backoff.Permanent(fmt.Errorf("%w: the last message of %q, to %s, has no position; publish into another stream, or have the others do so", ErrForeign, s.stream, msg.Subject))
	default:
		return backoff.Permanent(fmt.Errorf("%w: %s, and not to %s; publish into another stream", ErrSource, describe(stored), describe(s.source)))
	}
	m, err := parseMark(msg.Header)
	if err != nil {
		return fmt.Errorf("read the position in the stream %q of JetStream: %w", s.stream, err)
	}
	if m != (mark{}) { // not of a snapshot's row
		s.last = m
	}
	return nil
}
