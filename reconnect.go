package walchan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/session"
)

// minServer is the oldest version with all that is asked of pgoutput (the messages option came with 14).
const minServer = 140000

// defaultRetry goes on for ever: backoff's own default gives up after 15 minutes.
func defaultRetry() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMultiplier(2),
		backoff.WithMaxInterval(30*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}

// isPermanent says whether an error needs a person: trying again would not mend it, or would hide a gap. All else is tried
// again, also what is not known here. A refused connection is not permanent: a server that restarts refuses for a while. A
// wrong password is: trying it for ever locks accounts.
func isPermanent(err error) bool {
	for _, kind := range []error{
		ErrOptions, ErrAuthentication, ErrPermission, ErrNoDatabase, ErrServerVersion, ErrWALLevel,
		ErrSlotName, ErrSlotMissing, ErrSlotMismatch, ErrSlotLost, ErrSlotInvalidated, ErrSlotMoved, ErrDiverged,
		ErrPublicationMissing, ErrTableMissing, ErrPluginMissing, ErrPluginOption, ErrProtocol,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	switch sqlState(err) {
	case stateUndefinedObject, stateUndefinedFile, stateNoPrivilege, stateInvalidCatalog, stateDatabaseDropped, stateFeatureNotSupport:
		return true
	}
	return false
}

// reconnect dials until there is a stream again. why is what ended the last connection. The error is permanent, or errStopped.
func (s *Stream) reconnect(why error) (*connection, error) {
	if s.cfg.slot == "" {
		return nil, &Error{Kind: ErrSlotLost, What: fmt.Sprintf("temporary slot %q is gone with its connection", s.source.Slot), Err: why,
			Advice: "use a permanent slot (WithSlot, WithCreateSlot) for a stream that outlives its connections"}
	}
	delays := s.cfg.retry()
	delays.Reset()
	for attempt := 1; ; attempt++ {
		delay := delays.NextBackOff()
		if delay == backoff.Stop {
			return nil, fmt.Errorf("walchan: gave up after %d attempts to reconnect: %w", attempt-1, why)
		}
		s.gauge.retrying(attempt, why)
		s.cfg.log.Warn("disconnected: trying again", "slot", s.source.Slot, "attempt", attempt, "delay", delay.Round(time.Millisecond), "error", why)
		s.timer.Reset(delay)
		select {
		case <-s.timer.C:
		case <-s.ctx.Done():
			return nil, errStopped
		}
		c, err := s.open(s.source.Slot)
		switch {
		case s.ctx.Err() != nil:
			if c != nil {
				c.hangUp()
			}
			return nil, errStopped
		case err == nil:
			s.gauge.reconnected()
			s.cfg.log.Info("connected again", "slot", s.source.Slot, "attempts", attempt, "resumed_at", s.ledger.advance())
			return c, nil
		case isPermanent(err):
			return nil, err
		}
		why = err
	}
}

// begin makes the first connection, and the slot if that is asked for.
func (s *Stream) begin() (*connection, error) {
	slot := s.cfg.slot
	if slot == "" {
		slot = fmt.Sprintf("walchan_%x", rand.Uint64())
	}
	return s.open(slot)
}

// open makes a connection that streams from the slot: the first one, or one that goes on where the last has ended.
func (s *Stream) open(slot string) (*connection, error) {
	first := s.source.SystemID == ""
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	if err := s.start(c, slot, first); err != nil {
		c.hangUp()
		return nil, err
	}
	return c, nil
}

// dial connects, with a copy of the configuration that the user may change.
func (s *Stream) dial() (*connection, error) {
	cfg := s.cfg.conn.Copy()
	if err := s.cfg.connect(s.ctx, cfg); err != nil {
		return nil, fmt.Errorf("walchan: prepare the connection: %w", err)
	}
	if cfg.OnNotice == nil {
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			s.cfg.log.Info("notice from the server", "severity", n.Severity, "code", n.Code, "message", n.Message)
		}
	}
	conn, err := session.Dial(s.ctx, cfg)
	if err != nil {
		return nil, connectError(err, cfg)
	}
	return &connection{Conn: conn, config: cfg}, nil
}

// start makes the connection stream.
func (s *Stream) start(c *connection, slot string, first bool) error {
	ctx := s.ctx
	version, text := c.Version()
	if version > 0 && version < minServer {
		return &Error{Kind: ErrServerVersion, What: "server version " + text + " is not supported", Advice: "PostgreSQL 14 or later is"}
	}
	system, err := c.Identify(ctx)
	if err != nil {
		return fmt.Errorf("walchan: identify the system: %w", err)
	}
	if err := s.checkSystem(c, system, first); err != nil {
		return err
	}
	if err := s.readTimeouts(ctx, c); err != nil {
		return err
	}
	if err := checkPublications(ctx, c.Conn, s.cfg.publications); err != nil {
		return err
	}
	from, err := s.prepareSlot(ctx, c, slot, system, first)
	if err != nil {
		return err
	}
	if first {
		s.source = Source{SystemID: system.ID, Database: system.Database, Slot: slot}
		s.ledger.confirmed = from
	}
	if err := c.Start(ctx, s.cfg.startCommand(slot, from)); err != nil {
		return s.startError(ctx, c, err, slot)
	}
	now := time.Now()
	s.known = from
	c.from, c.confirmed, c.told, c.received = from, from, from, from
	c.toldAt, c.heardAt, c.caughtUp, c.probedAt = now, now, now, now
	return nil
}

// readTimeouts derives the timers from the server's wal_sender_timeout.
func (s *Stream) readTimeouts(ctx context.Context, c *connection) error {
	rows, err := c.Query(ctx, "SHOW wal_sender_timeout")
	if err != nil {
		return fmt.Errorf("walchan: read wal_sender_timeout: %w", err)
	}
	if len(rows) == 1 && len(rows[0]) == 1 {
		c.senderTimeout = parseGUCTime(rows[0][0])
	}
	c.interval, c.timeout = s.cfg.statusInterval, s.cfg.receiveTimeout
	if c.interval == 0 {
		c.interval = 10 * time.Second
		if c.senderTimeout > 0 {
			c.interval = min(max(c.senderTimeout/6, 100*time.Millisecond), c.interval)
		}
	} else if c.senderTimeout > 0 && c.interval > c.senderTimeout/2 {
		s.cfg.log.Warn("WithStatusInterval is more than half of the server's wal_sender_timeout: the server may hang up", "interval", c.interval, "wal_sender_timeout", c.senderTimeout)
	}
	if c.timeout == 0 {
		if c.timeout = c.senderTimeout; c.timeout == 0 {
			c.timeout = time.Minute
		}
	}
	return nil
}

// parseGUCTime reads a time as SHOW prints it: a number with its largest exact unit ("1min", "2s", "0").
func parseGUCTime(s string) time.Duration {
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.Atoi(s[:i])
	if err != nil {
		return 0
	}
	unit, ok := map[string]time.Duration{"": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute,
		"h": time.Hour, "d": 24 * time.Hour}[s[i:]]
	if !ok {
		return 0
	}
	return time.Duration(n) * unit
}

// checkSystem compares the cluster with what was delivered: no other one may continue the stream, nor one that lacks what
// was delivered already.
func (s *Stream) checkSystem(c *connection, system session.System, first bool) error {
	if first {
		return nil
	}
	if system.ID != s.source.SystemID {
		return &Error{Kind: ErrDiverged, What: fmt.Sprintf("the server is another cluster: system identifier %s, not %s", system.ID, s.source.SystemID),
			Advice: "check where the host name leads; to stream from it begin anew: Subscribe"}
	}
	return nil
}
