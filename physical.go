package walchan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/walchan/walchan/internal/session"
)

// SubscribePhysical streams the write-ahead log itself, of the whole cluster, as an archive or a standby wants it: messages of
// the kind WAL, without a gap, each with its position, its timeline and its bytes; and of the kind TimelineHistory. See
// Subscribe for all else: ctx, connString, reconnecting, stopping. The server's wal_level may be replica, and it may be a
// standby. Like a standby, a stream is a synchronous one if the server's synchronous_standby_names has its
// application_name (in connString; "walchan" if it has none): then a COMMIT waits until its WAL is received, or
// acknowledged, as synchronous_commit says.
//
// It begins at WithWALFrom, or else where the slot does (its restart_lsn), or else where the server's WAL ends now. Where a
// timeline ends it goes on with the next one. What is acknowledged is confirmed to its last byte. With a slot the
// server then keeps the WAL from there on; without one (WithSlot is not needed, nor is a temporary slot used) it may remove
// WAL before it was sent: then the stream ends with ErrWALRemoved.
//
// Message.LSN and Message.Timeline are the key of what was received: another process goes on with them (WithWALFrom).
func SubscribePhysical(ctx context.Context, connString string, opts ...Option) (*Stream, error) {
	cfg := newConfig(opts)
	cfg.connString, cfg.physical = connString, true
	if err := cfg.validate(false); err != nil {
		return nil, err
	}
	return launch(ctx, cfg)
}

// WithWALFrom has SubscribePhysical begin at a position, for instance where another process has ended. timeline is that of the
// WAL there; 0: what it is by the server's history. If it is known, give it: a server that has forked from it before the
// position then is ErrDiverged.
func WithWALFrom(lsn LSN, timeline uint32) Option {
	return func(c *config) { c.walFrom, c.walTimeline = lsn, timeline }
}

// WithWholeSegments has SubscribePhysical begin at the first byte of a segment (wal_segment_size, 16 MB), also with a new
// timeline: for a program that writes segment files. The positions at which it would begin otherwise are rounded down;
// so where a timeline ends, the beginning of its last segment comes twice, as part of two files.
func WithWholeSegments() Option { return func(c *config) { c.wholeSegments = true } }

// physicalProblems names the options that are for the other kind of stream.
func (c *config) physicalProblems() (problems []string) {
	type given struct {
		option string
		is     bool
	}
	options, kind := []given{{"WithWALFrom", c.walFrom != 0 || c.walTimeline != 0}, {"WithWholeSegments", c.wholeSegments}}, "physical"
	if c.physical {
		options, kind = []given{{"WithPublication", len(c.publications) > 0}, {"WithPlugin", c.plugin != pgoutputPlugin},
			{"WithPluginOption", c.plugin == pgoutputPlugin && len(c.pluginArgs) > 0}, {"WithTransactions", c.transactions}, {"WithStreaming", c.streaming},
			{"WithTwoPhase", c.twoPhase}, {"WithBinary", c.binary}, {"WithSpool", c.spoolSet}, {"WithFailover", c.failover},
			{"WithTerminateOld", c.terminateOld}}, "logical"
	}
	var wrong []string
	for _, o := range options {
		if o.is {
			wrong = append(wrong, o.option)
		}
	}
	if wrong != nil {
		problems = append(problems, fmt.Sprintf("%s: for %s replication only", strings.Join(wrong, ", "), kind))
	}
	if c.walFrom == 0 && c.walTimeline != 0 {
		problems = append(problems, fmt.Sprintf("WithWALFrom(0/0, %d): a timeline needs a position", c.walTimeline))
	}
	return problems
}

// walFeed is the feed of a physical stream. Its bytes follow one another, so that a position is all there is to know.
type walFeed struct {
	wholeSegments bool
	segment       LSN // size

	timeline int32
	at       LSN // where the next WAL begins
	high     LSN // of what was delivered; beyond at while the beginning of a segment comes again
	msg      Message

	history   string // to be delivered before the WAL; "": was, or there is none
	historyOf int32  // timeline
}

func (f *walFeed) connected(LSN)  {}
func (f *walFeed) disconnected()  {}
func (f *walFeed) held() int64    { return 0 }
func (f *walFeed) delivered() LSN { return f.high }

func (f *walFeed) data(s *Stream, frame *session.Frame) error {
	if frame.Start != f.at {
		return unexpected(fmt.Sprintf("WAL at %s: at %s it was left", frame.Start, f.at))
	}
	s.gauge.walEnd.Store(uint64(frame.End))
	m := &f.msg
	if f.history != "" {
		*m = Message{Kind: TimelineHistory, LSN: f.at, sent: frame.SentAt, data: f.history, ext: uint32(f.timeline)}
		if err := s.deliver(m); err != nil {
			return err
		}
		f.history = ""
	}
	*m = Message{Kind: WAL, LSN: f.at, sent: frame.SentAt, data: string(frame.Data), ext: uint32(f.timeline)}
	if err := s.deliver(m); err != nil {
		return err
	}
	f.at = m.End()
	f.high = max(f.high, f.at)
	s.received(f.at)
	return nil
}

// round returns where to begin for a position.
func (f *walFeed) round(lsn LSN) LSN {
	if f.wholeSegments {
		lsn -= lsn % f.segment
	}
	return lsn
}

// startPhysical makes the connection stream.
func (s *Stream) startPhysical(ctx context.Context, c, lost *connection) error {
	f := *s.feed.(*walFeed) // a copy, until the stream has begun
	// Before Identify, as in start.
	if err := s.readSettings(ctx, c, &f); err != nil {
		return err
	}
	system, err := c.Identify(ctx)
	if err != nil {
		return failed("identify the system", err)
	}
	history, err := timelineHistory(ctx, c, system.Timeline)
	if err == nil && s.cfg.slot != "" {
		c.told, err = s.preparePhysicalSlot(ctx, c, lost)
	}
	if err == nil && lost != nil {
		_, err = s.checkSystem(ctx, c, lost, system)
	}
	if err == nil {
		if lost == nil {
			f.choose(s.cfg, c.told, system, history)
		}
		err = f.locate(system, history, c.standby)
	}
	if err == nil && f.timeline != f.historyOf {
		f.historyOf = f.timeline
		f.history, err = timelineHistory(ctx, c, f.timeline)
	}
	if err == nil {
		if err = c.Start(ctx, f.startCommand(s.cfg.slot)); err != nil {
			err = s.physicalError(ctx, c, err)
		}
	}
	if err != nil {
		if c.made {
			s.unmake(ctx, c)
		}
		return err
	}
	*s.feed.(*walFeed) = f
	system.Timeline = f.timeline
	s.started(c, lost, system, f.at)
	return nil
}

func (f *walFeed) startCommand(slot string) string {
	if slot != "" {
		slot = "SLOT " + quoteName(slot) + " "
	}
	return fmt.Sprintf("START_REPLICATION %sPHYSICAL %s TIMELINE %d", slot, f.at, f.timeline)
}

// readSettings asks what is to be known of the server, without SQL.
func (s *Stream) readSettings(ctx context.Context, c *connection, f *walFeed) error {
	var timeout, recovery, segment string
	for name, value := range map[string]*string{"wal_sender_timeout": &timeout, "in_hot_standby": &recovery, "wal_segment_size": &segment} {
		var err error
		if *value, err = show(ctx, c.Conn, name); err != nil {
			return err
		}
	}
	s.setTimers(c, parseGUCTime(timeout))
	c.standby = recovery == "on"
	var err error
	f.segment, err = parseSegmentSize(segment)
	return err
}

// show asks for a setting.
func show(ctx context.Context, c *session.Conn, name string) (string, error) {
	rows, err := c.Query(ctx, "SHOW "+quoteName(name))
	if err == nil && (len(rows) != 1 || len(rows[0]) != 1) {
		err = errors.New("unexpected answer")
	}
	if err != nil {
		return "", failed("show "+name, err)
	}
	return rows[0][0], nil
}

// parseSegmentSize reads wal_segment_size as SHOW prints it: "16MB", "1GB".
func parseSegmentSize(s string) (LSN, error) {
	digits := strings.TrimRight(s, "MGB")
	n, err := strconv.ParseUint(digits, 10, 32)
	unit, ok := map[string]uint64{"MB": 1 << 20, "GB": 1 << 30}[s[len(digits):]]
	if err != nil || !ok || n == 0 {
		return 0, &Error{Kind: ErrProtocol, What: fmt.Sprintf("wal_segment_size is %q", s), Advice: reportIt}
	}
	return LSN(n * unit), nil
}

// timelineHistory returns the content of a timeline's history file; "" of timeline 1, which has none.
func timelineHistory(ctx context.Context, c *connection, timeline int32) (string, error) {
	if timeline == 1 {
		return "", nil
	}
	history, err := c.TimelineHistory(ctx, timeline)
	if err != nil {
		return "", failed(fmt.Sprintf("read the history of timeline %d", timeline), err)
	}
	return history, nil
}

// choose sets where the stream begins. restart is the position of its slot.
func (f *walFeed) choose(cfg *config, restart LSN, system session.System, history string) {
	f.at = cmp.Or(cfg.walFrom, restart, system.Flushed)
	// Rounded down it may lie on the timeline before, but the segment's file of this one has both.
	f.timeline = int32(cfg.walTimeline)
	if f.timeline == 0 {
		f.timeline = timelineAt(f.at, history, system.Timeline)
	}
	f.at = f.round(f.at)
	f.high = f.at
}

// preparePhysicalSlot makes sure of the slot, and returns its position; 0: it has none.
func (s *Stream) preparePhysicalSlot(ctx context.Context, c, lost *connection) (LSN, error) {
	name := s.cfg.slot
	restart, err := readPhysicalSlot(ctx, c, name)
	switch {
	case !errors.Is(err, ErrSlotMissing):
		return restart, err
	case lost != nil && c.standby && !lost.standby:
		return 0, inRecovery(fmt.Sprintf("it does not have slot %q", name), nil)
	case lost != nil || !s.cfg.createSlot:
		return 0, err
	}
	_, err = createSlot(ctx, c.Conn, NewSlot{Name: name, Physical: true, ReserveWAL: true})
	if c.made = err == nil; err != nil && !errors.Is(err, ErrSlotExists) { // another process was faster
		return 0, err
	}
	return readPhysicalSlot(ctx, c, name)
}

// readPhysicalSlot returns the restart_lsn of a physical slot, 0 if it has none. From PostgreSQL 15 on there is a command for
// it; before, it takes an ordinary connection.
func readPhysicalSlot(ctx context.Context, c *connection, name string) (LSN, error) {
	var kind, restart string
	if version, _ := c.Version(); version >= 150000 {
		rows, err := c.Query(ctx, "READ_REPLICATION_SLOT "+quoteName(name))
		switch {
		case sqlState(err) == stateFeatureNotSupported:
			kind = "logical"
		case err != nil:
			return 0, failed(fmt.Sprintf("look up slot %q", name), err)
		case len(rows) != 1 || len(rows[0]) < 2:
			return 0, failed(fmt.Sprintf("look up slot %q", name), errors.New("unexpected answer"))
		default:
			kind, restart = rows[0][0], rows[0][1]
		}
	} else {
		rows, err := c.sql(ctx, "SELECT slot_type, coalesce(restart_lsn::text, '') FROM pg_catalog.pg_replication_slots WHERE slot_name = "+quoteLiteral(name))
		if err != nil {
			return 0, failed(fmt.Sprintf("look up slot %q", name), err)
		}
		if len(rows) > 0 {
			kind, restart = rows[0][0], rows[0][1]
		}
	}
	switch {
	case kind == "":
		return 0, missingSlot(name, nil)
	case kind != "physical":
		return 0, notPhysical(name, nil)
	case restart == "":
		return 0, nil
	}
	lsn, err := ParseLSN(restart)
	if err != nil {
		return 0, fmt.Errorf("walchan: look up slot %q: %w", name, err)
	}
	return lsn, nil
}

func notPhysical(name string, err error) error {
	return &Error{Kind: ErrSlotMismatch, What: fmt.Sprintf("slot %q is a logical one", name), Err: err, Advice: "use a physical slot"}
}

// sql runs a query, if need be on an ordinary connection of its own, for a physical one has no SQL.
func (c *connection) sql(ctx context.Context, query string) ([][]string, error) {
	if c.config.RuntimeParams["replication"] != "true" {
		return c.Query(ctx, query)
	}
	ordinary := &connection{config: c.config.Copy(), address: c.address}
	delete(ordinary.config.RuntimeParams, "replication")
	conn, err := ordinary.dialOrdinary(ctx)
	if err != nil {
		return nil, connectError(err, ordinary.config)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return session.Query(ctx, conn, query)
}

// locate finds the stream's place in the server's history: over the ends of timelines, but never back over a fork.
func (f *walFeed) locate(system session.System, history string, standby bool) error {
	diverged := func(format string, args ...any) error {
		return &Error{Kind: ErrDiverged, What: fmt.Sprintf(format, args...),
			Advice: "this is not the WAL that the stream is to continue: connect to the right server, or begin anew (WithWALFrom)"}
	}
	for f.timeline != system.Timeline {
		fork, ok := forkOf(history, f.timeline)
		switch {
		case !ok:
			return diverged("timeline %d is not in the history of the server's timeline %d", f.timeline, system.Timeline)
		case f.at > fork:
			return diverged("the server has left timeline %d at %s, before %s, where the stream is to go on", f.timeline, fork, f.at)
		case f.at < fork:
			return nil
		}
		f.timeline, f.at = timelineAfter(f.timeline, history, system.Timeline), f.round(fork)
	}
	switch what := fmt.Sprintf("the server's WAL ends at %s, before %s, where the stream is to go on", system.Flushed, f.at); {
	case f.at <= system.Flushed:
		return nil
	case standby:
		return inRecovery(what, nil)
	default:
		return diverged("%s", what)
	}
}

// errTimelineEnd says that the server has sent all of a timeline that has ended. The stream goes on over a new connection, as
// after a failure: then the server's history says with what.
var errTimelineEnd = errors.New("walchan: the timeline has ended")

// leaveTimeline ends the stream of a timeline properly, so that the slot is free when the function returns.
func (s *Stream) leaveTimeline(c *connection) {
	s.cfg.log.Info("the timeline has ended", "slot", s.source.Slot, "timeline", c.timeline, "received", c.received)
	if err := c.farewell(s.ledger.advance(), time.Now().Add(time.Second)); err != nil {
		s.cfg.log.Info("the end of the timeline could not be confirmed over its connection", "slot", s.source.Slot, "error", err)
	}
}

// physicalError translates the refusal of START_REPLICATION.
func (s *Stream) physicalError(ctx context.Context, c *connection, err error) error {
	name := s.cfg.slot
	switch state := sqlState(err); {
	case state == stateObjectInUse:
		return activeSlot(ctx, c.sql, name, err)
	case state == stateUndefinedObject:
		return missingSlot(name, err)
	case state == stateNotPrerequisite && name != "": // a lost slot, from PostgreSQL 18 on
		if slot, lookErr := readSlot(ctx, c.sql, name); lookErr == nil && slot != nil && slot.walStatus == "lost" {
			return walRemoved(err)
		}
	}
	return failed("start physical replication", err)
}

// walRemoved is the error of a position whose WAL the server does not have (WalSndSegmentOpen in
// src/backend/replication/walsender.c).
func walRemoved(err error) error {
	return &Error{Kind: ErrWALRemoved, What: "the server has removed WAL before it was sent", Err: err,
		Advice: "take it from an archive and go on behind it, or begin anew; a slot keeps WAL (WithSlot), within max_slot_wal_keep_size"}
}
