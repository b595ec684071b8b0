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
	"github.com/walchan/walchan/internal/resume"
)

// Headers of what is published.
const (
	headerCheckpoint = "Walchan-Checkpoint" // everything up to it is in the stream
	headerPart       = "Walchan-Part"       // and the first parts of the next message: 0/16C39F0:2.1
	headerAgain      = "Walchan-Again"      // how often the transaction was sent differently

	// Older versions have written these.
	headerPosition = "Walchan-Position" // not of a snapshot's rows
	headerSource   = "Walchan-Source"   // cluster/database/slot
)

// mark says how far the stream is once a message is published.
type mark struct {
	checkpoint walchan.Checkpoint // everything up to it is there
	of         walchan.Position   // of the next message, if some of its parts are there
	parts      uint32             // how many of them
	again      uint32             // as in headerAgain, for the newest transaction
}

// covers says whether a part of m is there. point is that of the checkpoint.
func (last *mark) covers(point resume.Point, m walchan.Message, part, again uint32) bool {
	p, ok := m.Position()
	if !ok {
		return false
	}
	if m.Tx != nil && m.Tx.Redelivered && last.isOf(m.Tx) && again != last.again {
		return again < last.again
	}
	return p == last.of && part < last.parts || point.Contains(p.Commit, p.Ordinal, m.Tx == nil)
}

// isOf says whether the newest message is one of the transaction.
func (last *mark) isOf(tx *walchan.Tx) bool {
	if last.parts > 0 {
		return last.of.Commit == tx.CommitLSN
	}
	return last.checkpoint.Position().Commit == tx.CommitLSN
}

func (last *mark) point() (resume.Point, error) {
	c, err := resume.Parse(last.checkpoint.String())
	return c.Point, err
}

func (last *mark) setHeader(h nats.Header) {
	h[headerCheckpoint] = []string{last.checkpoint.String()}
	if last.parts > 0 {
		h[headerPart] = []string{fmt.Sprintf("%s.%d", last.of, last.parts)}
	}
	if last.again > 0 {
		h[headerAgain] = []string{strconv.Itoa(int(last.again))}
	}
}

// parseMark is the reverse of setHeader. The zero mark is that of a message before there is a checkpoint.
func parseMark(h nats.Header) (m mark, err error) {
	again, err := number(h.Get(headerAgain))
	switch {
	case err != nil:
		return m, err
	case h.Get(headerCheckpoint) == "":
		m, err = parseOldMark(h)
	default:
		if m.checkpoint, err = walchan.ParseCheckpoint(h.Get(headerCheckpoint)); err == nil && h.Get(headerPart) != "" {
			m.of, m.parts, err = parsePart(h.Get(headerPart))
		}
	}
	m.again = again
	return m, err
}

func parsePart(text string) (of walchan.Position, parts uint32, err error) {
	position, part, _ := strings.Cut(text, ".")
	of, err = parsePosition(position)
	parts, numberErr := number(part)
	return of, parts, errors.Join(err, numberErr)
}

func parsePosition(text string) (p walchan.Position, err error) {
	lsn, ordinal, _ := strings.Cut(text, ":")
	p.Commit, err = walchan.ParseLSN(lsn)
	n, numberErr := number(ordinal)
	p.Ordinal = n
	return p, errors.Join(err, numberErr)
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(cmp.Or(s, "0"), 10, 32)
	return uint32(n), err
}

// parseOldMark takes the headers of an older version. They say where the message is, and not whether it has more parts.
func parseOldMark(h nats.Header) (m mark, err error) {
	if h.Get(headerPosition) == "" {
		return m, nil
	}
	part, partErr := number(h.Get(headerPart))
	m.of, err = parsePosition(h.Get(headerPosition))
	m.parts = part + 1
	names := strings.SplitN(h.Get(headerSource), "/", 3)
	if err := errors.Join(err, partErr); err != nil || len(names) < 3 || m.of.Commit == 0 {
		return m, cmp.Or(err, fmt.Errorf("the headers %s and %s are no position", headerPosition, headerSource))
	}
	c := resume.Checkpoint{Point: resume.Point{Commit: m.of.Commit, Ordinal: max(m.of.Ordinal, 1) - 1}}
	for i, name := range []*string{&c.SystemID, &c.Database, &c.Slot} {
		if *name, err = url.PathUnescape(names[i]); err != nil {
			return m, err
		}
	}
	m.checkpoint, err = walchan.ParseCheckpoint(c.String())
	return m, err
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

// lookUp returns the sequence of the stream's last message.
func (s *Sink) lookUp(ctx context.Context) (uint64, error) {
	stream, err := s.js.Stream(ctx, s.stream)
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return 0, fmt.Errorf("%w: there is no stream %q; create it, or see WithCreateStream", ErrStream, s.stream)
	case err != nil:
		return 0, fmt.Errorf("look up the stream %q of JetStream: %w", s.stream, err)
	}
	info := stream.CachedInfo()
	switch {
	case info.Config.Retention != natsjs.LimitsPolicy:
		return 0, fmt.Errorf("%w: %q drops messages once they are consumed (retention %s), and with them the checkpoint; publish into one with retention by limits, and have that one as its source",
			ErrStream, s.stream, strings.ToLower(info.Config.Retention.String()))
	case info.Config.NoAck:
		return 0, fmt.Errorf("%w: %q does not confirm messages (no_ack)", ErrStream, s.stream)
	}
	return info.State.LastSeq, nil
}

// locate asks the server how far the sink has come.
func (s *Sink) locate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	last, err := s.lookUp(ctx)
	switch {
	case err != nil:
		return err
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

// readLast takes the checkpoint from the stream's last message. It is the leader that is asked for it: another replica, which
// answers where the stream allows direct reads, may not have it yet.
func (s *Sink) readLast(ctx context.Context, sequence uint64) error {
	msg, err := s.leader.GetMsg(s.stream, sequence, nats.Context(ctx))
	switch {
	case errors.Is(err, nats.ErrMsgNotFound) && s.cfg.removed:
		s.cfg.log.Warn("the last message of the stream of JetStream was removed, and the checkpoint with it: what PostgreSQL sends again will be there again",
			"stream", s.stream, "sequence", sequence)
		return nil
	case errors.Is(err, nats.ErrMsgNotFound):
		return backoff.Permanent(&walchan.Error{Kind: walchan.ErrCheckpoint, What: fmt.Sprintf("the last message of the stream %q of JetStream, number %d, was removed, and the checkpoint with it", s.stream, sequence),
			Advice: "publish into another stream, with the tables copied anew (walchan.SubscribeAnew); or see jetstream.WithRemoved, which may repeat changes"})
	case err != nil:
		return fmt.Errorf("read the last message of the stream %q of JetStream: %w", s.stream, err)
	case msg.Header.Get(headerCheckpoint) == "" && msg.Header.Get(headerSource) == "":
		return backoff.Permanent(fmt.Errorf("%w: the last message of %q, to %s, has no checkpoint; publish into another stream, or have the others do so", ErrForeign, s.stream, msg.Subject))
	}
	m, err := parseMark(msg.Header)
	if err != nil {
		return backoff.Permanent(fmt.Errorf("read the checkpoint in the stream %q of JetStream: %w", s.stream, err))
	}
	s.last = m
	return nil
}
