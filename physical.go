package walchan

import (
	"context"
	"fmt"
	"strings"

	"github.com/walchan/walchan/internal/resume"
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
// WAL before it was sent: then the stream ends with ErrWALRemoved. WithCreateSlot makes a slot that begins at the server's
// last checkpoint. (Of PostgreSQL 14, which has no command for it, the slot is looked up over an ordinary connection.)
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
			{"WithFrom", c.from != 0}, {"WithUntil", c.until != 0 || c.untilNow}, {"WithOrigin", c.origin != ""}, {"WithSnapshot", c.snapshot.wanted},
			{"WithTerminateOld", c.terminateOld}, {"WithSkippedPublications", c.skippedPublications}}, "logical"
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

func (f *walFeed) connected(*connection) {}
func (f *walFeed) disconnected()         {}

func (f *walFeed) keepalive(*Stream, *connection) error { return nil }

func (f *walFeed) held() int64 { return 0 }

func (f *walFeed) delivered() resume.Point { return resume.Point{Through: f.high, Single: true} }

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
