package walchan

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/session"
)

// What can go wrong, for errors.Is. The error that carries it is an *Error, which names the thing and says what to do.
// Subscribe returns any of them. A running stream ends with a permanent one, and tries again after a passing one.
var (
	ErrOptions       = permanent("contradictory or out-of-range arguments") // all of them named at once
	ErrServerVersion = permanent("server version is not supported")

	ErrUnreachable     = passing("server cannot be reached")                    // refused, unknown host, timeout, lost
	ErrServerDown      = passing("server is starting, stopping or in recovery") // a standby is in recovery
	ErrTooManyClients  = passing("no free connection or walsender")
	ErrTLS             = passing("no trusted TLS connection")         // refused, or a certificate that is not accepted, but may be renewed
	ErrAuthentication  = permanent("server does not let the user in") // password, role, pg_hba.conf: retrying locks accounts
	ErrPermission      = permanent("role lacks a privilege")
	ErrDatabaseMissing = permanent("database does not exist")
	ErrWALLevel        = permanent("wal_level is not logical")

	ErrSlotMissing     = permanent("slot does not exist")
	ErrSlotExists      = permanent("slot exists already")
	ErrSlotActive      = passing("slot is in use") // an old walsender may hold it for a while
	ErrSlotMismatch    = permanent("slot is of another kind, plugin or database")
	ErrSlotLost        = permanent("temporary slot is gone with its connection")
	ErrSlotInvalidated = permanent("slot was invalidated by the server")
	ErrSlotMoved       = permanent("slot was advanced or made anew by somebody") // changes were skipped
	ErrNoFreeSlot      = passing("all replication slots are in use")
	ErrWALRemoved      = permanent("server no longer has the WAL that is asked for")
	ErrDiverged        = permanent("server has another history than what was delivered") // fail-over with loss, restore
	ErrCheckpoint      = permanent("checkpoint is torn, missing, too new or of another source")
	ErrUnproven        = permanent("nothing proves that the server has this history") // see WithProof

	ErrPublicationMissing = permanent("publication does not exist")
	ErrPublication        = permanent("publication cannot be what it is asked to be")
	ErrTableMissing       = permanent("table does not exist, or is not published")
	ErrTableKey           = permanent("table has nothing that identifies its rows")
	ErrTableRead          = permanent("rows of a table cannot be read") // a condition fails on one, or a value cannot be printed
	ErrPluginMissing      = permanent("output plugin is not installed")
	ErrPluginOption       = permanent("output plugin refuses an option")

	ErrSpool    = permanent("temporary file of a transaction in progress fails") // a full disk: see WithSpool
	ErrProtocol = permanent("server sent what cannot be understood")
	ErrServer   = passing("server reports an error") // any other: see the *pgconn.PgError in it
	ErrClosed   = permanent("stream is closed")
)

// kind is one of the Err variables.
type kind struct {
	text      string
	permanent bool // trying again would not mend it
}

func permanent(text string) error { return &kind{text, true} }
func passing(text string) error   { return &kind{text, false} }

func (k *kind) Error() string { return "walchan: " + k.text }

// Error is a failure with what it is about and what to do about it. errors.Is finds its Kind, one of the Err variables, and
// its cause, often a *pgconn.PgError. Its text is one line, and has neither passwords nor row data in it; that of the
// cause may have.
type Error struct {
	Kind   error
	What   string // names the thing: `slot "orders" is in use by PID 4711`
	Advice string // what to do; "" if there is nothing to be said
	PID    uint32 // ErrSlotActive: the server process that holds the slot; 0 if not known
	Err    error  // cause; nil where it was a check of ours
}

// Error returns "walchan: What: cause; Advice".
func (e *Error) Error() string {
	s := "walchan: " + e.What
	if e.Err != nil {
		s += ": " + line(e.Err)
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
	Acknowledged LSN   // what should have been confirmed
	Confirmed    LSN   // what the server is known to have
	Err          error // why; nil if the connection was down
}

func (e *UnconfirmedError) Error() string {
	s := fmt.Sprintf("walchan: %s was acknowledged, but the server is only known to have %s: it will send the rest again", e.Acknowledged, e.Confirmed)
	if e.Err != nil {
		s += ": " + line(e.Err)
	}
	return s
}

func (e *UnconfirmedError) Unwrap() error { return e.Err }

// line is the text of a cause, in one line. pgx has one cause for each address that it has tried.
func line(err error) string {
	causes := withoutPreferredTLS(split(err))
	texts := make([]string, len(causes))
	for i, cause := range causes {
		text, pg, dial := cause.Error(), pgError(cause), (*net.OpError)(nil)
		switch {
		case isOurs(cause):
			text = strings.TrimPrefix(text, "walchan: ") // it was said
		case pg != nil && len(causes) == 1:
			text = fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
		case errors.As(cause, &dial) && dial.Op == "dial":
			text = dial.Error()
		}
		texts[i] = strings.Join(strings.Fields(text), " ")
	}
	return strings.Join(slices.Compact(texts), "; ")
}

// withoutPreferredTLS leaves out that a server does no TLS where it was asked again without: with sslmode=prefer, the default,
// that is no failure, and what the second attempt says is all there is to know.
func withoutPreferredTLS(attempts []error) []error {
	var kept []error
	for i, err := range attempts {
		address, refused := strings.CutSuffix(err.Error(), refusedTLS)
		if refused && i+1 < len(attempts) && strings.HasPrefix(attempts[i+1].Error(), address) {
			continue
		}
		kept = append(kept, err)
	}
	return kept
}

// split takes joined errors apart.
func split(err error) []error {
	for e := err; e != nil && !isOurs(e); e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			var all []error
			for _, e := range joined.Unwrap() {
				all = append(all, split(e)...)
			}
			return all
		}
	}
	return []error{err}
}

// isOurs says whether the text of err is ours, and fit to be shown.
func isOurs(err error) bool {
	switch err.(type) {
	case *Error, withheld:
		return true
	}
	return false
}

func pgError(err error) *pgconn.PgError {
	var pg *pgconn.PgError
	errors.As(err, &pg)
	return pg
}

// sqlState returns the SQLSTATE of the server's error in err, or "".
func sqlState(err error) string {
	if pg := pgError(err); pg != nil {
		return pg.Code
	}
	return ""
}

// withheld is an error of the server whose message may quote a value: a row filter can fail on a row with
// "date field value out of range: 0-01-01".
type withheld struct{ pg *pgconn.PgError }

func (w withheld) Error() string {
	return fmt.Sprintf("SQLSTATE %s, with a message that may quote data", w.pg.Code)
}

func (w withheld) Unwrap() error { return w.pg }

// quotesData says whether an error while streaming may. The classes that are named are about other things.
func quotesData(pg *pgconn.PgError) bool {
	return !strings.Contains(" 08 0A 28 3D 42 53 54 55 57 58 XX ", " "+pg.Code[:min(2, len(pg.Code))]+" ")
}

// SQLSTATEs (PostgreSQL documentation, appendix "PostgreSQL Error Codes").
const (
	stateProtocolViolation   = "08P01"
	stateFeatureNotSupported = "0A000"
	stateInvalidParameter    = "22023"
	stateUniqueViolation     = "23505"
	stateReadOnly            = "25006"
	stateInvalidPassword     = "28P01"
	stateInvalidCatalog      = "3D000"
	stateDeadlock            = "40P01"
	stateNoPrivilege         = "42501"
	stateSyntaxError         = "42601"
	stateInvalidName         = "42602"
	stateUndefinedColumn     = "42703"
	stateUndefinedObject     = "42704"
	stateDuplicateObject     = "42710"
	stateWrongObjectType     = "42809"
	stateUndefinedTable      = "42P01"
	stateTooManyConns        = "53300"
	stateConfigLimit         = "53400"
	stateNotPrerequisite     = "55000"
	stateObjectInUse         = "55006"
	stateLockNotAvailable    = "55P03"
	stateCantChangeParameter = "55P02"
	stateQueryCanceled       = "57014"
	stateAdminShutdown       = "57P01"
	stateCrashShutdown       = "57P02"
	stateCannotConnectNow    = "57P03"
	stateDatabaseDropped     = "57P04"
	stateUndefinedFile       = "58P01"
	stateInternal            = "XX000"
)

// failed translates an error on a connection to what it means whatever was being done: what. The server's messages may be in
// any language, so that SQLSTATEs count, and not texts.
func failed(what string, err error) *Error {
	e := &Error{Kind: ErrServer, What: what, Err: err, Advice: "see the server's log"}
	switch state := sqlState(err); {
	case state == "", strings.HasPrefix(state, "08"):
		e.Kind = ErrUnreachable
	case strings.HasPrefix(state, "28"):
		e.Kind = ErrAuthentication
	case state == stateNoPrivilege:
		e.Kind, e.Advice = ErrPermission, "grant it to the role"
	case state == stateInvalidCatalog, state == stateDatabaseDropped:
		e.Kind = ErrDatabaseMissing
	case state == stateTooManyConns:
		e.Kind, e.Advice = ErrTooManyClients, "raise max_wal_senders or max_connections, or end another client"
	case state == stateReadOnly:
		e.Kind, e.Advice = ErrServerDown, "connect to the primary: this is a standby"
	case state == stateCannotConnectNow, state == stateAdminShutdown, state == stateCrashShutdown:
		e.Kind, e.Advice = ErrServerDown, "wait until it is up again"
	}
	return e
}

// streamError translates what has ended a connection that was streaming.
func (s *Stream) streamError(err error) error {
	pg := pgError(err)
	switch {
	case pg != nil && s.conn.Load() != nil && err == s.conn.Load().gap:
		return s.publicationGap(pg)
	case err == errStopped || err == errAgain || err == errEnded || isOurs(err):
		return err
	case s.cfg.physical && errors.Is(err, session.ErrCopyDone):
		return s.feed.(*walFeed).timelineEnd()
	case errors.Is(err, session.ErrServerStopped):
		return &Error{Kind: ErrServerDown, What: "connection lost", Err: err, Advice: "wait until it is up again"}
	case pg == nil:
		return failed("connection lost", err)
	case pg.Code == stateUndefinedFile && s.cfg.physical:
		return s.removed(err)
	case pg.Code == stateUndefinedFile: // WalSndSegmentOpen in src/backend/replication/walsender.c
		return invalidated(s.source.Slot, "wal_removed", err)
	}
	e := failed("the server ended the stream", err)
	switch {
	case pg.Code == stateUndefinedObject && s.cfg.plugin == pgoutputPlugin:
		return s.publicationGap(err)
	case pg.Code == stateFeatureNotSupported && s.cfg.plugin == pgoutputPlugin:
		e.Kind, e.Advice = ErrPublication, "alter the publications, then Subscribe"
	case quotesData(pg):
		e.Err = withheld{pg}
	}
	return e
}
