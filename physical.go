package walchan

import (
	"context"
	"fmt"
	"strings"
)

// SubscribePhysical streams the write-ahead log itself, of the whole cluster, as an archive or a standby wants it: messages of
// the kind WAL, without a gap, each with its position, its timeline and its bytes; and of the kind TimelineHistory. See
// Subscribe for all else: ctx, connString, reconnecting, stopping. The server's wal_level may be replica, and it may be a
// standby. Like a standby, a stream is a synchronous one if the server's synchronous_standby_names has its
// application_name (in connString; "walchan" if it has none): then a COMMIT waits until its WAL is received, or
// acknowledged, as synchronous_commit says.
//
// It begins after the checkpoint (WithCheckpoint), or at WithWALFrom, or else where the slot does (its restart_lsn), or else where
// the server's WAL ends now. It follows the server from one timeline to the next. With a slot the server keeps the WAL from the
// confirmed position on. Without one (WithSlot is not needed, nor is a temporary slot used) it may remove
// WAL before it was sent: then the stream ends with ErrWALRemoved. WithCreateSlot makes a slot that begins at the server's
// last checkpoint. (Of PostgreSQL 14, which has no command for it, the slot is looked up over an ordinary connection.)
//
// # Checkpoints
//
// The same position has other WAL in another history of the cluster: after two standbys were promoted to timelines of the same
// number, or after a volume was restored. So the stream proves on every new connection that the server has what was delivered.
// It asks for the WAL from the beginning of the segment again, compares its hash with that of the delivered bytes, and delivers
// nothing before they are equal. If they differ, the stream ends with ErrDiverged. The proof costs up to one segment
// (wal_segment_size, 16 MB) for each connection. The end of a timeline needs no new proof.
//
// WithCheckpoint does the same for another process. Message.Checkpoint of WAL holds its timeline, its End, and the hash of the
// delivered bytes of the segment up to there. The checkpoint of a TimelineHistory is the place before it, so that the
// next process receives it, too. The stream begins exactly after the checkpoint, also with WithWholeSegments. WithCheckpointFrom calls its function before the slot is
// taken, and again when it is held. If it returns another checkpoint then, the stream begins after that one.
// The zero Checkpoint begins as a stream without WithCheckpoint does.
//
// The server may have removed the WAL that the proof needs, if it has no slot. Then the stream logs a warning, sets
// Stats.Unproven and continues; with WithProof(true) it ends with ErrUnproven.
//
// What is acknowledged is confirmed to its last byte, with one exception. If that is the last byte of a segment, the position
// before it is confirmed until more is acknowledged, because the server would remove the segment, and the proof needs it. So a
// synchronous COMMIT that ends exactly there waits for the next WAL.
//
// Without checkpoints Message.End and Message.Timeline of the last WAL say where another process goes on (WithWALFrom). Then
// timelines and the end of the server's WAL are checked, and the bytes are not.
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
// so where a timeline ends, the beginning of its last segment comes twice, as part of two files. The position of a checkpoint
// is not rounded.
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
			{"WithTerminateOld", c.terminateOld}, {"WithSkippedPublications", c.skippedPublications}, {"WithUpgradedFrom", c.upgraded}}, "logical"
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
	if c.walFrom != 0 && c.checkpoints {
		problems = append(problems, "WithWALFrom and WithCheckpoint exclude one another: both say where to begin")
	}
	return problems
}
