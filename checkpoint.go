package walchan

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
)

// Checkpoint says how far a consumer is, and proves it. It names the server, the database and the slot. It names the last
// transaction by commit LSN, XID and time, and says how much of it was applied, with a hash of that part. And it has a
// position: every transaction that ended at or before it is applied. The checkpoint of a physical stream has a position, and a
// hash of the delivered bytes of its segment.
//
// Store it in the same transaction as the result of the message, in the order of delivery, and give it back with WithCheckpoint.
// It is one line of text, usually below 200 bytes; in SQL it fits a text column, and the zero Checkpoint is NULL. It changes
// when the server restarts. Message.ID is an identity that does not.
type Checkpoint struct {
	c resume.Checkpoint

	// without says that the stream has no WithCheckpoint. Such a checkpoint is zero and cannot be stored.
	without bool
}

// ParseCheckpoint reads the text form. The error is ErrCheckpoint: the text is torn, or a newer version wrote it.
func ParseCheckpoint(text string) (Checkpoint, error) {
	text = strings.TrimSpace(text) // as from a file
	c, err := resume.Parse(text)
	if err == nil {
		return Checkpoint{c: c}, nil
	}
	const shown = 60
	quoted := strconv.QuoteToASCII(text[:min(len(text), shown)])
	if len(text) > shown {
		quoted += "…"
	}
	advice := "find out what wrote it; a file must be replaced as a whole (write another one, then rename it)"
	if errors.Is(err, resume.ErrNewer) {
		advice = "run the version that wrote it, or a later one"
	}
	return Checkpoint{}, &Error{Kind: ErrCheckpoint, What: "the checkpoint " + quoted, Err: withoutData{err}, Advice: advice}
}

// withoutData is an error whose text is ours.
type withoutData struct{ error }

func (e withoutData) Unwrap() error { return e.error }

// IsZero reports whether c is the zero Checkpoint: nothing is stored yet.
func (c Checkpoint) IsZero() bool { return c.c == (resume.Checkpoint{}) }

// Compare returns -1, 0 or +1 if c lies before, at or after d in the order of delivery. ok is false if they are of different
// sources. The zero Checkpoint lies before all others.
func (c Checkpoint) Compare(d Checkpoint) (n int, ok bool) {
	switch {
	case c.IsZero() || d.IsZero():
		return btoi(!c.IsZero()) - btoi(!d.IsZero()), true
	case c.Source() != d.Source() || c.c.Physical != d.c.Physical:
		return 0, false
	}
	if c.c.Physical && c.c.Timeline != d.c.Timeline {
		return cmp.Compare(c.c.Timeline, d.c.Timeline), true // WithWholeSegments repeats the beginning of a segment
	}
	return c.c.Point.Compare(d.c.Point), true
}

// Position returns the place of the last transaction, or of a message outside of transactions. It is a key within Source only;
// to continue, use the whole Checkpoint.
func (c Checkpoint) Position() Position {
	if c.c.Message != 0 {
		return Position{Commit: c.c.Message}
	}
	return Position{c.c.Commit, c.c.Ordinal}
}

// Source returns the cluster, database and slot.
func (c Checkpoint) Source() Source { return Source{c.c.SystemID, c.c.Database, c.c.Slot} }

// String returns the text form, "none" for the zero Checkpoint.
func (c Checkpoint) String() string { return c.c.String() }

// place is what a log shows: the last message, or the position if there is no transaction yet.
func (c Checkpoint) place() string {
	if c.c.HasTransaction() {
		return c.Position().String()
	}
	return c.c.Through.String()
}

// MarshalText returns the text form, "none" for the zero Checkpoint. It fails for a message of a stream without WithCheckpoint.
func (c Checkpoint) MarshalText() ([]byte, error) {
	if c.without {
		return nil, errWithoutCheckpoint
	}
	return []byte(c.String()), nil
}

// UnmarshalText is ParseCheckpoint.
func (c *Checkpoint) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCheckpoint(string(b))
	return err
}

// Value returns the text form for database/sql and pgx, nil (NULL) for the zero Checkpoint. It fails for a message of a stream
// without WithCheckpoint, so that its checkpoint is not stored by mistake.
func (c Checkpoint) Value() (driver.Value, error) {
	switch {
	case c.without:
		return nil, errWithoutCheckpoint
	case c.IsZero():
		return nil, nil
	}
	return c.String(), nil
}

// Scan reads what Value has written.
func (c *Checkpoint) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*c = Checkpoint{}
		return nil
	case string:
		return c.UnmarshalText([]byte(v))
	case []byte:
		return c.UnmarshalText(v)
	}
	return fmt.Errorf("walchan: a checkpoint is text or NULL, and not %T", src)
}

var errWithoutCheckpoint = &Error{Kind: ErrCheckpoint, What: "the message has no checkpoint", Advice: "give the stream WithCheckpoint, also if nothing is stored yet"}

func checkpointAt(o *resume.Source, p resume.Point) Checkpoint {
	return Checkpoint{c: resume.Checkpoint{Origin: o.Origin, Point: p, Physical: p.From != 0}}
}

// Checkpoint returns what to store after m is applied. It needs WithCheckpoint, also with the zero Checkpoint; without it the
// result is zero, and its Value method returns an error, so that nobody stores it by mistake. During WithSnapshot it is zero
// until SnapshotEnd, because an interrupted snapshot starts over. A Read of ReadRows has the checkpoint of the message before it.
func (m Message) Checkpoint() Checkpoint {
	o, p := m.place()
	if o == nil || !o.Checkpoints {
		before := m.Kind == 0 || o == nil && (m.Kind == Read || m.Kind == SnapshotBegin) // no stream has one of these
		return Checkpoint{without: !before}
	}
	return checkpointAt(o, p)
}

// place returns the origin of m and how far a consumer has come with it; nil if it has no place.
func (m Message) place() (*resume.Source, resume.Point) {
	if at := m.at(); at != nil {
		return at.Source, at.Point
	}
	if m.Tx == nil || m.Tx.origin == nil {
		return nil, resume.Point{}
	}
	p := resume.Point{Through: m.Tx.before, Commit: m.Tx.CommitLSN, XID: m.Tx.XID, Time: pgtime.Micros(m.Tx.CommitTime), Prepared: m.Tx.prepared,
		Ordinal: m.Ordinal, Hash: m.hash}
	if end := feed.EndOf(m.ext); end != 0 {
		p.Through = end
	}
	return m.Tx.origin, p
}

// at returns the point of a message outside of transactions; nil if it has none, or is in a transaction.
func (m Message) at() *resume.Place {
	switch x := m.ext.(type) {
	case *resume.Place: // a Progress, a RollbackPrepared, a Read among changes
		return x
	case *feed.Emitted:
		return x.At
	case *Snapshot:
		return x.at
	case *feed.Piece:
		return &x.At
	}
	return nil
}

// ID returns the identity of the message: system, commit LSN, XID, commit time and ordinal, as one line of text. It stays the same
// when the message is delivered a second time, in every process and after every restart. In another history it differs. It
// serves as a key for removing duplicates. It is "" for rows of a snapshot, Progress, Raw and WAL.
func (m Message) ID() string {
	p, ok := m.Position()
	if !ok {
		return ""
	}
	o, _ := m.place()
	if o == nil {
		return ""
	}
	var xid uint32
	var time int64
	if m.Tx != nil {
		xid, time = m.Tx.XID, pgtime.Micros(m.Tx.CommitTime)
	}
	return fmt.Sprintf("%s:%s:%d:%d:%d", o.SystemID, p.Commit, xid, time, p.Ordinal)
}

// Checkpoint returns the place up to which everything is acknowledged or skipped. It is zero before the first acknowledgement, unless
// WithCheckpoint gave one, and for a stream without WithCheckpoint. Store it from time to time if you skip messages, after a Flush, and say so
// with Stored: otherwise the slot waits for a message that you acknowledge.
func (s *Stream) Checkpoint() Checkpoint {
	p := s.ledger.Checkpoint()
	if p.Source == nil || !s.cfg.checkpoints {
		return Checkpoint{without: !s.cfg.checkpoints}
	}
	return checkpointAt(p.Source, p.Point)
}

// Stored says that c, which Checkpoint has returned, is stored. Ack says the same of a message's checkpoint.
func (s *Stream) Stored(c Checkpoint) {
	s.ledger.Save(c.c.Through)
	s.interrupt()
}

// WithCheckpoint continues after c: the message of c is not delivered again, everything after it is. Subscribe returns
// ErrCheckpoint if c belongs to another source, and ErrSlotMoved if the slot has confirmed more than c. The stream ends with
// ErrDiverged if the server's history differs from c.
//
// So that a slot never confirms more than what is stored, the stream then confirms up to the last acknowledged checkpoint only
// (see Stream.Ack and Stream.Skip). In quiet moments it delivers a Progress; store its checkpoint like any other.
//
// The zero c means that nothing is stored yet. Then the slot must not exist: WithCreateSlot makes it, and WithSnapshot takes the
// existing rows first. The slot comes to exist once the first checkpoint is acknowledged, which is that of a Progress or of
// SnapshotEnd; until then the server needs a second free slot. For a slot that exists, say with WithFrom(its confirmed
// position) that the target is a copy as of there; otherwise it is ErrCheckpoint. A missing slot and a c with a transaction are
// ErrSlotMissing, also with WithCreateSlot.
//
// WithCheckpoint together with WithFrom accepts a gap, when a person says so: the slot may have confirmed up to that position.
//
// WithCheckpoint does not go together with WithWaitForSlot, because the process that holds the slot stores more meanwhile: see
// WithCheckpointFrom.
func WithCheckpoint(c Checkpoint) Option {
	from := WithCheckpointFrom(func(context.Context) (Checkpoint, error) { return c, nil })
	return func(cfg *config) {
		from(cfg)
		cfg.checkpointRead = true
	}
}

// WithCheckpointFrom is WithCheckpoint, but f is called once the slot is held. f may be called before, too, where the slot is yet to be
// made. Use it wherever a process may begin before the last one has ended, because that one may store more meanwhile. If f fails,
// Subscribe fails with its error.
func WithCheckpointFrom(f func(context.Context) (Checkpoint, error)) Option {
	return func(c *config) { c.checkpoint, c.checkpoints, c.checkpointRead = f, true, false }
}

// WithProof(true) refuses a server with ErrUnproven if nothing proves that it has the history of the checkpoint. The default is to
// continue if nothing disproves it either, with a warning and Stats.Unproven.
//
// WithProof(false) also continues if the last transaction should have been sent a second time and was not. The default is to
// refuse, because the server may have another history.
func WithProof(required bool) Option {
	return func(c *config) { c.proof = proofWanted(1 + btoi(required)) }
}

// WithUpgradedFrom accepts a checkpoint of the cluster of that system identifier, from which this one was made by pg_upgrade with
// its slots (PostgreSQL 17 or later).
func WithUpgradedFrom(systemID string) Option {
	return func(c *config) { c.upgradedFrom, c.upgraded = systemID, true }
}

// proofWanted is what WithProof says.
type proofWanted int

const (
	proofUnsaid proofWanted = iota
	proofWaived
	proofRequired
)

// checkpointProblems names what is wrong with these options.
func (c *config) checkpointProblems() (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	switch {
	case !c.checkpoints:
		if c.proof != proofUnsaid {
			wrong("WithProof needs WithCheckpoint")
		}
		if c.upgraded {
			wrong("WithUpgradedFrom needs WithCheckpoint")
		}
		return problems
	case c.checkpoint == nil:
		wrong("WithCheckpointFrom(nil): leave it out")
	case c.plugin != pgoutputPlugin:
		wrong("WithCheckpoint belongs to pgoutput, not to the plugin %s", c.plugin)
	case c.slot == "" && !c.physical:
		wrong("WithCheckpoint needs WithSlot: a temporary slot cannot be continued")
	}
	if c.checkpointRead && c.waitForSlot && !c.anew {
		wrong("WithCheckpoint and WithWaitForSlot: the process that has the slot stores more meanwhile, so read the checkpoint with WithCheckpointFrom")
	}
	if c.upgraded && c.upgradedFrom == "" {
		wrong("WithUpgradedFrom: the system identifier is empty")
	}
	return problems
}
