// Package walerr has the errors of walchan.
package walerr

import (
	"fmt"

	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/wal"
)

// What can go wrong, for errors.Is. The error that carries it is an *Error, which names the thing and says what to do.
// Subscribe returns any of them. A running stream ends with a permanent one, and tries again after a passing one.
var (
	Options       = permanent("contradictory or out-of-range arguments") // all of them named at once
	ServerVersion = permanent("server version is not supported")

	Unreachable     = passing("server cannot be reached")                    // refused, unknown host, timeout, lost
	ServerDown      = passing("server is starting, stopping or in recovery") // a standby is in recovery
	TooManyClients  = passing("no free connection or walsender")
	TLS             = passing("no trusted TLS connection")         // refused, or a certificate that is not accepted, but may be renewed
	Authentication  = permanent("server does not let the user in") // password, role, pg_hba.conf: retrying locks accounts
	Permission      = permanent("role lacks a privilege")
	DatabaseMissing = permanent("database does not exist")
	WALLevel        = permanent("wal_level is not logical")

	SlotMissing     = permanent("slot does not exist")
	SlotExists      = permanent("slot exists already")
	SlotActive      = passing("slot is in use") // an old walsender may hold it for a while
	SlotMismatch    = permanent("slot is of another kind, plugin or database")
	SlotLost        = permanent("temporary slot is gone with its connection")
	SlotInvalidated = permanent("slot was invalidated by the server")
	SlotMoved       = permanent("slot was advanced or made anew by somebody") // changes were skipped
	NoFreeSlot      = passing("all replication slots are in use")
	WALRemoved      = permanent("server no longer has the WAL that is asked for")
	Diverged        = permanent("server has another history than what was delivered") // fail-over with loss, restore
	Checkpoint      = permanent("checkpoint is torn, missing, too new or of another source")
	Unproven        = permanent("nothing proves that the server has this history") // see WithProof

	PublicationMissing = permanent("publication does not exist")
	Publication        = permanent("publication cannot be what it is asked to be")
	TableMissing       = permanent("table does not exist, or is not published")
	TableKey           = permanent("table has nothing that identifies its rows")
	TableRead          = permanent("rows of a table cannot be read") // a condition fails on one, or a value cannot be printed
	PluginMissing      = permanent("output plugin is not installed")
	PluginOption       = permanent("output plugin refuses an option")

	Spool    = permanent("temporary file of a transaction in progress fails") // a full disk: see WithSpool
	Protocol = permanent("server sent what cannot be understood")
	Server   = passing("server reports an error") // any other: see the *pgconn.PgError in it
	Closed   = permanent("stream is closed")
)

// kind is one of these variables.
type kind struct {
	text      string
	permanent bool // trying again would not mend it
}

func permanent(text string) error { return &kind{text, true} }
func passing(text string) error   { return &kind{text, false} }

func (k *kind) Error() string { return causes.Prefix + k.text }

// Permanent says whether trying again would not mend it.
func (k *kind) Permanent() bool { return k.permanent }

// Error is a failure with what it is about and what to do about it. errors.Is finds its Kind, one of the variables, and
// its cause, often a *pgconn.PgError. Its text is one line, and has neither passwords nor row data in it; that of the
// cause may have.
type Error struct {
	Kind   error
	What   string // names the thing: `slot "orders" is in use by PID 4711`
	Advice string // what to do; "" if there is nothing to be said
	PID    uint32 // SlotActive: the server process that holds the slot; 0 if not known
	Err    error  // cause; nil where it was a check of ours
}

// Error returns "walchan: What: cause; Advice".
func (e *Error) Error() string {
	s := causes.Prefix + e.What
	if e.Err != nil {
		s += ": " + causes.Line(e.Err)
	}
	if e.Advice != "" {
		s += "; " + e.Advice
	}
	return s
}

// Unwrap gives errors.Is and errors.As the Kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// UnconfirmedError says that the last position did not reach the server for certain. Nothing is lost: what lies between
// Confirmed and Acknowledged will be sent again.
type UnconfirmedError struct {
	Acknowledged wal.LSN // what should have been confirmed
	Confirmed    wal.LSN // what the server is known to have
	Err          error   // why; nil if the connection was down
}

func (e *UnconfirmedError) Error() string {
	s := fmt.Sprintf("%s%s was acknowledged, but the server is only known to have %s: it will send the rest again", causes.Prefix, e.Acknowledged, e.Confirmed)
	if e.Err != nil {
		s += ": " + causes.Line(e.Err)
	}
	return s
}

func (e *UnconfirmedError) Unwrap() error { return e.Err }
