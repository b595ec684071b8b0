package walchan

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// What can go wrong, for errors.Is. The error that carries it is an *Error, which names the thing and says what to do.
// Subscribe returns any of them; those marked permanent also end a running stream, the others it retries.
var (
	ErrOptions        = errors.New("walchan: contradictory or out-of-range options")              // permanent; joined, one for each
	ErrUnreachable    = errors.New("walchan: server cannot be reached")                           //
	ErrAuthentication = errors.New("walchan: server refuses the user")                            // permanent
	ErrPermission     = errors.New("walchan: role is not allowed to")                             // permanent
	ErrNoDatabase     = errors.New("walchan: database does not exist")                            // permanent
	ErrServerVersion  = errors.New("walchan: server version is not supported")                    // permanent
	ErrWALLevel       = errors.New("walchan: wal_level is not logical")                           // permanent
	ErrNoFreeSlot     = errors.New("walchan: all replication slots are in use")                   //
	ErrTooManyClients = errors.New("walchan: no free connection or walsender")                    //
	ErrServerDown     = errors.New("walchan: server is starting up, shutting down or restarting") //

	ErrSlotName        = errors.New("walchan: not a slot name")                            // permanent
	ErrSlotMissing     = errors.New("walchan: slot does not exist")                        // permanent
	ErrSlotExists      = errors.New("walchan: slot exists already")                        //
	ErrSlotActive      = errors.New("walchan: slot is in use")                             // retried: an old walsender may hold it for a while
	ErrSlotMismatch    = errors.New("walchan: slot is of another kind")                    // permanent: physical, of another plugin or database
	ErrSlotLost        = errors.New("walchan: temporary slot is gone with its connection") // permanent
	ErrSlotInvalidated = errors.New("walchan: slot was invalidated by the server")         // permanent
	ErrSlotMoved       = errors.New("walchan: slot was advanced or made anew by somebody") // permanent: changes were skipped
	ErrDiverged        = errors.New("walchan: server lacks what was already delivered")    // permanent: failed over with loss

	ErrPublicationMissing = errors.New("walchan: publication does not exist") // permanent
	ErrTableMissing       = errors.New("walchan: table does not exist")       // permanent
	ErrPluginMissing      = errors.New("walchan: output plugin is not there") // permanent
	ErrPluginOption       = errors.New("walchan: output plugin refuses an option")

	ErrProtocol = errors.New("walchan: server sent what cannot be understood") // permanent
	ErrClosed   = errors.New("walchan: stream is closed")
)

// Error is a failure with what it is about and what to do about it. errors.Is finds its Kind, one of the Err variables, and
// its cause, often a *pgconn.PgError.
type Error struct {
	Kind   error
	What   string // names the thing: `slot "orders" is active for PID 4711`
	Advice string // what to do
	PID    uint32 // ErrSlotActive: the server process that holds the slot; 0 if not known
	Err    error  // cause; nil where it was a check of ours
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("walchan: ")
	b.WriteString(e.What)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Advice != "" {
		fmt.Fprintf(&b, " (%s)", e.Advice)
	}
	return b.String()
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
	Acknowledged LSN   // what should have been confirmed
	Confirmed    LSN   // what the server is known to have
	Err          error // why; nil if the connection was down
}

func (e *UnconfirmedError) Error() string {
	s := fmt.Sprintf("walchan: %s was acknowledged, but the server is only known to have %s: it will send the rest again", e.Acknowledged, e.Confirmed)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *UnconfirmedError) Unwrap() error { return e.Err }

// SQLSTATEs (PostgreSQL documentation, appendix "PostgreSQL Error Codes").
const (
	stateInvalidParameter  = "22023"
	stateInvalidPassword   = "28P01"
	stateInvalidCatalog    = "3D000"
	stateObjectInUse       = "55006"
	stateNotPrerequisite   = "55000"
	stateUndefinedObject   = "42704"
	stateUndefinedTable    = "42P01"
	stateDuplicateObject   = "42710"
	stateInvalidName       = "42602"
	stateNoPrivilege       = "42501"
	stateTooManyConns      = "53300"
	stateConfigLimit       = "53400"
	stateCannotConnectNow  = "57P03"
	stateAdminShutdown     = "57P01"
	stateCrashShutdown     = "57P02"
	stateDatabaseDropped   = "57P04"
	stateUndefinedFile     = "58P01"
	stateFeatureNotSupport = "0A000"
)

// sqlState returns the SQLSTATE of the server's error in err, or "".
func sqlState(err error) string {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// connectError translates the failure of a connection attempt.
func connectError(err error, cfg *pgconn.Config) error {
	e := &Error{Kind: ErrUnreachable, What: "connect to " + target(cfg), Err: err}
	switch state := sqlState(err); {
	case errors.Is(err, context.Canceled):
		return err
	case state == stateNoPrivilege:
		e.Kind, e.Advice = ErrPermission, "give the role the REPLICATION attribute: ALTER ROLE "+quoteIdent(cfg.User)+" REPLICATION"
	case state == stateInvalidPassword:
		e.Kind, e.Advice = ErrAuthentication, "check user and password"
	case strings.HasPrefix(state, "28"):
		e.Kind, e.Advice = ErrAuthentication, "check user and password, and that pg_hba.conf lets the user into the database: "+
			"a logical replication connection needs a line for the database, not the keyword replication"
	case state == stateInvalidCatalog:
		e.Kind, e.Advice = ErrNoDatabase, "check the database name in the connection string"
	case state == stateTooManyConns:
		e.Kind, e.Advice = ErrTooManyClients, "raise max_wal_senders or max_connections, or stop another client"
	case state == stateCannotConnectNow, state == stateAdminShutdown, state == stateCrashShutdown:
		e.Kind, e.Advice = ErrServerDown, "try again"
	case state == "":
		e.Advice = "check host and port, and that the server runs and listens there"
	}
	return e
}

// target names a server without its password.
func target(cfg *pgconn.Config) string {
	return fmt.Sprintf("%s:%d/%s", cfg.Host, cfg.Port, cfg.Database)
}

// slotError translates the refusal of a command on a slot.
func slotError(err error, slot, plugin string) error {
	e := &Error{What: fmt.Sprintf("slot %q", slot), Err: err}
	switch sqlState(err) {
	case stateUndefinedObject:
		return missingSlot(slot, err)
	case stateObjectInUse:
		return &Error{Kind: ErrSlotActive, What: fmt.Sprintf("slot %q is in use", slot), Err: err, PID: pidIn(err),
			Advice: "stop the other client, or use another slot"}
	case stateDuplicateObject:
		e.Kind, e.Advice = ErrSlotExists, "use it, drop it first, or choose another name"
	case stateConfigLimit:
		e.Kind, e.Advice = ErrNoFreeSlot, "drop a slot that is not used (pg_replication_slots), or raise max_replication_slots"
	case stateTooManyConns:
		e.Kind, e.Advice = ErrTooManyClients, "raise max_wal_senders or max_connections, or stop another client"
	case stateInvalidName:
		e.Kind, e.Advice = ErrSlotName, "use lower-case letters, digits and underscores, 63 at most"
	case stateNoPrivilege:
		e.Kind, e.Advice = ErrPermission, "give the role the REPLICATION attribute"
	case stateUndefinedFile:
		e.Kind, e.Advice = ErrPluginMissing, fmt.Sprintf("install the output plugin %q on the server", plugin)
	case stateInvalidParameter, stateFeatureNotSupport:
		e.Kind, e.Advice = ErrPluginOption, fmt.Sprintf("check the options of the output plugin %q", plugin)
	default:
		return err
	}
	return e
}

func missingSlot(slot string, err error) error {
	return &Error{Kind: ErrSlotMissing, What: fmt.Sprintf("slot %q does not exist", slot), Err: err,
		Advice: "create it: WithCreateSlot, or CreateSlot"}
}

// pidIn finds the PID in `replication slot "x" is active for PID 123`, whatever the language of the server's messages.
func pidIn(err error) uint32 {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return 0
	}
	var pid uint32
	fields := strings.Fields(pg.Message)
	if len(fields) > 0 {
		fmt.Sscanf(fields[len(fields)-1], "%d", &pid)
	}
	return pid
}
