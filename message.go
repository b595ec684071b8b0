package walchan

import (
	"time"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/value"
	"github.com/walchan/walchan/wal"
)

// LSN is a position in the write-ahead log: see wal.LSN.
type LSN = wal.LSN

// ParseLSN reads PostgreSQL's notation of a position.
func ParseLSN(s string) (LSN, error) { return wal.ParseLSN(s) }

// Kind says what a Message is. Its text is snake case: "commit_prepared".
type Kind uint8

// The kinds of messages. Which of them a stream delivers depends on its options.
const (
	Insert         Kind = iota + 1 // a row was inserted: New
	Update                         // a row was updated: New, and Old as the replica identity allows
	Delete                         // a row was deleted: Old
	Truncate                       // tables were truncated together: Truncated
	LogicalMessage                 // pg_logical_emit_message: Prefix, Payload; Tx is nil if it was not transactional
	Begin                          // a transaction begins (WithTransactions)
	Commit                         // a transaction ends (WithTransactions): End
	Raw                            // what another output plugin wrote (WithPlugin): Payload

	// With WithTwoPhase. The changes of a transaction whose Tx has a GID were prepared, not committed: that is told by one of
	// the latter two.
	Prepare          // PREPARE TRANSACTION, behind its changes (WithTransactions): End
	CommitPrepared   // COMMIT PREPARED: End
	RollbackPrepared // ROLLBACK PREPARED: End

	// With SubscribePhysical.
	WAL             // a piece of the log itself: LSN, Timeline, Payload, End
	TimelineHistory // before the first WAL of a timeline but the first: Timeline, and the history file as Payload

	// With WithSnapshot.
	SnapshotBegin // the rows that exist follow, or start over: Snapshot
	Read          // a row that exists: New
	SnapshotEnd   // all have come: Snapshot

	// With WithCheckpoint.
	Progress // the server has nothing more up to LSN: store its Checkpoint, so that the slot goes on
)

// Message is one change, or one mark between changes, of the write-ahead log.
//
// It is a value of 96 bytes, immutable, and belongs to its receiver: it may be kept, copied and handed to several
// goroutines. Its row bytes are a copy. Small rows share blocks of 1 kB with their neighbours, larger ones have a block each. Keeping a
// message, or a value of it, pins that block, and no buffer of the stream. The zero Message is no message: its methods return zero values.
type Message struct {
	Kind Kind

	// Ordinal is the place of the message among the messages of its transaction, whether or not they are delivered:
	// Begin is 1, the first change 2. Of a CommitPrepared by itself it is 1. It is 0 outside of transactions, and of
	// RollbackPrepared.
	Ordinal uint32

	// LSN is the position of the record itself: for logs. It is neither unique (the rows of one COPY share it) nor
	// monotonic (concurrent transactions interleave); Position is the key. Of a snapshot it is where the changes begin.
	LSN LSN

	// Tx is the transaction; nil for Raw, WAL, TimelineHistory, those of a snapshot, and for a LogicalMessage that is not
	// transactional.
	Tx *Tx

	// Relation is the table; nil where no single table is concerned. The same pointer means the same definition.
	Relation *Relation

	sent  int64  // the server's clock when it sent the message, microseconds since 2000-01-01 UTC
	split uint32 // length of the old row's offset table at the end of data; 0: no old row
	hash  uint32 // of the transaction's messages up to this one: see resume.Hash
	data  sealed // row block (see pgoutput.Block) or payload
	ack   Receipt
	ext   any // what only some kinds have: see feed.Item; *Snapshot, *resume.Place, *resume.Source
}

// Tx is a transaction, shared by its messages and immutable. It has no end LSN: rows are delivered before the server
// sends that.
type Tx struct {
	XID uint32 `json:"xid"`

	// GID is the identifier given to PREPARE TRANSACTION; "" if the transaction was not prepared. The changes of such a one
	// are not yet committed: see WithTwoPhase.
	GID string `json:"gid,omitempty"`

	CommitLSN  LSN       `json:"-"`                // of the record that commits or prepares; of a RollbackPrepared the end of its record
	CommitTime time.Time `json:"commit_time"`      // of that, or of the rollback
	Origin     string    `json:"origin,omitempty"` // the replication origin it was replayed from; "" for one that was made here

	// Redelivered says that messages of this transaction were delivered before, and come again as a whole, because the server
	// sent it differently after a reconnect.
	Redelivered bool `json:"redelivered,omitempty"`

	origin   *resume.Source
	before   LSN  // everything that ended at or before it was delivered before the transaction
	prepared bool // it is delivered at its PREPARE
}

// Source says whose positions a stream's positions are. Store it beside a Position: under another SystemID or Slot the
// Position means nothing.
type Source struct {
	SystemID string `json:"system_id"` // identifies the cluster; a copy made by pg_basebackup has the same
	Database string `json:"database"`  // "" of a physical stream
	Slot     string `json:"slot"`      // "" of a physical stream without one
}

// Position returns the key of the message. ok is false where there is none: Raw, WAL, TimelineHistory, Progress, those of a snapshot,
// and the zero Message.
func (m Message) Position() (p Position, ok bool) {
	switch {
	case m.Tx != nil:
		return Position{m.Tx.CommitLSN, m.Ordinal}, true
	case m.Kind == LogicalMessage:
		// Its LSN can be the commit LSN of the transaction that follows; that one's ordinals start at 1. RollbackPrepared, too.
		return Position{m.LSN, 0}, true
	}
	return Position{}, false
}

// New returns the row after an Insert or Update, or that of a Read, the zero Row otherwise.
func (m Message) New() Row {
	if m.Kind != Insert && m.Kind != Update && m.Kind != Read {
		return Row{}
	}
	return Row{m.Relation, m.data.first(m.data.len - int(m.split))}
}

// Old returns the row before an Update or Delete, or as much of it as the server sends: Row.Identity tells nothing (an
// Update that does not change the key), the columns of the replica identity, or the whole row apart. The zero Row
// otherwise.
func (m Message) Old() Row {
	if m.split == 0 {
		return Row{}
	}
	return Row{m.Relation, m.data}
}

// Payload returns what a Raw message, a LogicalMessage, WAL or a TimelineHistory carries, as it came: text in the encoding of
// the database, or bytes of any kind. (All else comes as UTF-8, whatever that encoding is, unless it is SQL_ASCII, which is none.)
func (m Message) Payload() string {
	switch m.Kind {
	case Raw, LogicalMessage, WAL, TimelineHistory:
		return m.data.text()
	}
	return ""
}

// Size returns how many bytes of row data or payload the message holds: for bounding batches and transactions.
func (m Message) Size() int { return m.data.len }

// Prefix returns the prefix of a LogicalMessage.
func (m Message) Prefix() string {
	if x, ok := m.ext.(*feed.Emitted); ok {
		return x.Prefix
	}
	return ""
}

// End returns the end LSN of a Commit, Prepare, CommitPrepared or RollbackPrepared: the position that is confirmed once
// everything up to it is acknowledged. Of WAL it is the position behind its last byte. 0 otherwise; also of a Prepare that
// came late, together with its CommitPrepared.
func (m Message) End() LSN {
	switch m.Kind {
	case WAL:
		return m.LSN + LSN(m.data.len)
	case RollbackPrepared:
		return m.LSN
	}
	lsn, _ := m.ext.(LSN)
	return lsn
}

// Timeline returns the timeline that WAL belongs to, or that a TimelineHistory is of. 0 otherwise.
func (m Message) Timeline() uint32 {
	if x, ok := m.ext.(*feed.Piece); ok {
		return uint32(x.Timeline)
	}
	return 0
}

// Truncated returns the tables that a Truncate has emptied, together, and its options.
func (m Message) Truncated() (tables []*Relation, cascade, restartIdentity bool) {
	x, ok := m.ext.(*feed.Truncation)
	if !ok {
		return nil, false, false
	}
	for _, t := range x.Tables {
		tables = append(tables, t.Owner.(*Relation))
	}
	return tables, x.Cascade, x.Restart
}

// SentAt returns the time on the server's clock at which it sent the message; the zero time on the zero Message.
func (m Message) SentAt() time.Time { return pgtime.Time(m.sent) }

// Receipt returns the acknowledgement of the message, for whoever has let the message go.
func (m Message) Receipt() Receipt { return m.ack }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ReplicaIdentity is a table's setting of what the server sends of old rows (ALTER TABLE … REPLICA IDENTITY). Its text is "default",
// "index", "full" or "nothing".
type ReplicaIdentity byte

// The settings, as pg_class.relreplident has them.
const (
	ReplicaIdentityDefault ReplicaIdentity = 'd' // the primary key
	ReplicaIdentityIndex   ReplicaIdentity = 'i' // the columns of an index
	ReplicaIdentityFull    ReplicaIdentity = 'f' // the whole row
	ReplicaIdentityNothing ReplicaIdentity = 'n'
)

// Relation is a table as of the change. It is immutable; a table that is altered gets a new one.
type Relation struct {
	OID             uint32          `json:"oid"`
	Schema          string          `json:"schema"`
	Name            string          `json:"name"`
	ReplicaIdentity ReplicaIdentity `json:"replica_identity"`
	Columns         []Column        `json:"columns"`

	conv *value.Conversion // how values are converted, see types.bind; nil: built-in types only
}

// Column is a column of a Relation.
type Column struct {
	Name     string `json:"name"`
	Key      bool   `json:"key"`       // belongs to the replica identity
	TypeOID  uint32 `json:"type_oid"`  // pg_type.oid
	TypeMod  int32  `json:"type_mod"`  // pg_attribute.atttypmod; -1 without
	TypeName string `json:"type_name"` // as in format_type without modifier ("integer", "shop.status"); the number where it is not known
}

// Index returns the index of the column called name, or -1.
func (r *Relation) Index(name string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return i
		}
	}
	return -1
}
