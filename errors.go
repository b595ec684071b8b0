package walchan

import (
	"errors"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// What can go wrong, for errors.Is. The error that carries it is an *Error, which names the thing and says what to do.
// Subscribe returns any of them. A running stream ends with a permanent one, and tries again after a passing one.
var (
	ErrOptions       = walerr.Options // all of them named at once
	ErrServerVersion = walerr.ServerVersion

	ErrUnreachable     = walerr.Unreachable // refused, unknown host, timeout, lost
	ErrServerDown      = walerr.ServerDown  // a standby is in recovery
	ErrTooManyClients  = walerr.TooManyClients
	ErrTLS             = walerr.TLS            // refused, or a certificate that is not accepted, but may be renewed
	ErrAuthentication  = walerr.Authentication // password, role, pg_hba.conf: retrying locks accounts
	ErrPermission      = walerr.Permission
	ErrDatabaseMissing = walerr.DatabaseMissing
	ErrWALLevel        = walerr.WALLevel

	ErrSlotMissing     = walerr.SlotMissing
	ErrSlotExists      = walerr.SlotExists
	ErrSlotActive      = walerr.SlotActive // an old walsender may hold it for a while
	ErrSlotMismatch    = walerr.SlotMismatch
	ErrSlotLost        = walerr.SlotLost
	ErrSlotInvalidated = walerr.SlotInvalidated
	ErrSlotMoved       = walerr.SlotMoved // changes were skipped
	ErrNoFreeSlot      = walerr.NoFreeSlot
	ErrWALRemoved      = walerr.WALRemoved
	ErrDiverged        = walerr.Diverged // fail-over with loss, restore
	ErrCheckpoint      = walerr.Checkpoint
	ErrUnproven        = walerr.Unproven // see WithProof

	ErrPublicationMissing = walerr.PublicationMissing
	ErrPublication        = walerr.Publication
	ErrTableMissing       = walerr.TableMissing
	ErrTableKey           = walerr.TableKey
	ErrTableRead          = walerr.TableRead // a condition fails on one, or a value cannot be printed
	ErrPluginMissing      = walerr.PluginMissing
	ErrPluginOption       = walerr.PluginOption

	ErrSpool    = walerr.Spool // a full disk: see WithSpool
	ErrProtocol = walerr.Protocol
	ErrServer   = walerr.Server // any other: see the *pgconn.PgError in it
	ErrClosed   = walerr.Closed
)

// Error is a failure with what it is about and what to do about it: see walerr.Error.
type Error = walerr.Error

// UnconfirmedError says that the last position did not reach the server for certain: see walerr.UnconfirmedError.
type UnconfirmedError = walerr.UnconfirmedError

// streamError translates what has ended a connection that was streaming.
func (o *owner) streamError(err error) error {
	pg := sqlstate.Error(err)
	switch {
	case pg != nil && o.conn.Load() != nil && err == o.conn.Load().gap:
		return o.publicationGap(pg)
	case err == errStopped || err == errAgain || err == errTimelineEnd || err == errUnprovable || pgfail.IsExplained(err):
		return err
	case o.cfg.physical && errors.Is(err, session.ErrCopyDone):
		return o.feed.(*walFeed).timelineEnd()
	case errors.Is(err, session.ErrServerStopped):
		return &Error{Kind: ErrServerDown, What: "connection lost", Err: err, Advice: "wait until it is up again"}
	case pg == nil:
		return pgfail.Failed("connection lost", err)
	case pg.Code == sqlstate.UndefinedFile && o.cfg.physical:
		return o.removed(err)
	case pg.Code == sqlstate.UndefinedFile: // WalSndSegmentOpen in src/backend/replication/walsender.c
		return slots.Invalidated(o.source.Slot, "wal_removed", err)
	}
	e := pgfail.Failed("the server ended the stream", err)
	switch {
	case pg.Code == sqlstate.UndefinedObject && o.cfg.plugin == pgoutputPlugin:
		return o.publicationGap(err)
	case pg.Code == sqlstate.FeatureNotSupported && o.cfg.plugin == pgoutputPlugin:
		e.Kind, e.Advice = ErrPublication, "alter the publications, then Subscribe"
	case sqlstate.QuotesData(pg):
		e.Err = sqlstate.Withheld{PG: pg}
	}
	return e
}
