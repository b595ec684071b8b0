package begin

import (
	"context"
	"log/slog"

	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// Request is what a logical stream asks of a server.
type Request struct {
	Slot         slots.New // the stream's, as it would be made
	Create       bool      // it is made if it does not exist
	Maker        uint64    // this stream among those who make the slot
	Terminate    bool      // the walsender of the lost connection is ended if it still holds the slot
	Publications []string
	Args         map[string]string // of the output plugin
	From         wal.LSN           // where the stream is to begin, if the slot has confirmed less; 0: where the slot is
	Timers       link.Timers       // what the user asks for
	Snapshot     Snapshot
	Consumer     *Consumer // nil: it stores no checkpoints
	Lost         *Lost     // nil: the stream begins
	Log          *slog.Logger
}

// Consumer is one that stores checkpoints.
type Consumer struct {
	Checkpoint    func(context.Context) (resume.Checkpoint, error) // reads what is stored; it may take its time
	ProofRequired bool                                             // of the server's history
	UpgradedFrom  string                                           // the cluster before pg_upgrade, whose checkpoints count; "": none
}

// Lost is a connection that was lost, and how far the stream has come by then.
type Lost struct {
	PID          uint32 // of its walsender
	Remote       Remote
	Past         Past
	Acknowledged wal.LSN // up to here
	Certain      wal.LSN // the highest position that lies in the history of what was delivered for certain
}

// Snapshot is what a stream knows of the snapshot that comes first, over all attempts.
type Snapshot struct {
	Due     bool    // one is to be taken before the stream
	Bare    bool    // without rows: it makes the slot, once the first checkpoint is stored
	Attempt int     // how many there were
	Kept    wal.LSN // where the permanent slot begins, if it was made; 0: that was not tried
}

// Started says how a connection has begun.
type Started struct {
	Remote
	Origin resume.Origin // of its messages
	Timers link.Timers

	Snapshot Snapshot
	Exported *Exported // the snapshot that is to be read before the server streams; nil: it streams

	From wal.LSN // where the stream begins
	Told wal.LSN // what the server has as confirmed; known once it streams, also if Begin fails after that

	Past     *Past   // what the connection has to continue; nil: nothing was delivered before
	Expected bool    // the server sends the last transaction of Past again, which is the proof of its history
	Verdict  Verdict // else, or if the history is known to be the same
}

// Exported is a snapshot that a temporary slot has exported. It goes with the next command.
type Exported struct {
	Slot string  // the temporary one
	Name string  // of the snapshot
	From wal.LSN // the slot's beginning: what was committed before is in the snapshot
}
