// Package pgfail says what an error on a connection to PostgreSQL means, whatever was being done.
package pgfail

import (
	"context"
	"errors"
	"strings"

	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// Failed translates an error on a connection to what it means whatever was being done: what. The server's messages may be in
// any language, so that SQLSTATEs count, and not texts.
func Failed(what string, err error) *walerr.Error {
	e := &walerr.Error{Kind: walerr.Server, What: what, Err: err, Advice: "see the server's log"}
	switch state := sqlstate.Of(err); {
	case errors.Is(err, context.Canceled):
		e.Kind, e.Advice = walerr.Unreachable, "" // nothing is wrong with the server
	case state == "", strings.HasPrefix(state, "08"):
		e.Kind = walerr.Unreachable
	case strings.HasPrefix(state, "28"):
		e.Kind = walerr.Authentication
	case state == sqlstate.NoPrivilege:
		e.Kind, e.Advice = walerr.Permission, "grant it to the role"
	case state == sqlstate.InvalidCatalog, state == sqlstate.DatabaseDropped:
		e.Kind = walerr.DatabaseMissing
	case state == sqlstate.TooManyConns:
		e.Kind, e.Advice = walerr.TooManyClients, "raise max_wal_senders or max_connections, or end another client"
	case state == sqlstate.ReadOnly:
		e.Kind, e.Advice = walerr.ServerDown, "connect to the primary: this is a standby"
	case state == sqlstate.CannotConnectNow, state == sqlstate.AdminShutdown, state == sqlstate.CrashShutdown:
		e.Kind, e.Advice = walerr.ServerDown, "wait until it is up again"
	}
	return e
}

// IsPermanent says whether an error needs a person: trying again would not mend it, or would hide a gap. All else is tried
// again, also what is not known here. A refused connection is not permanent: a server that restarts refuses for a while. A
// wrong password is: trying it for ever locks accounts.
func IsPermanent(err error) bool {
	if kind := kindOf(err); kind != nil && any(kind) != any(walerr.Server) {
		return kind.Permanent()
	}
	switch state := sqlstate.Of(err); state {
	case sqlstate.UndefinedObject, sqlstate.UndefinedFile, sqlstate.NoPrivilege, sqlstate.InvalidCatalog, sqlstate.DatabaseDropped, sqlstate.FeatureNotSupported:
		return true
	default:
		return strings.HasPrefix(state, "28")
	}
}

// IsExplained says whether an error says already what it means: it has one of the kinds of walerr.
func IsExplained(err error) bool { return kindOf(err) != nil }

// kindOf returns the kind of an error, one of those of walerr; nil if it has none.
func kindOf(err error) (kind interface{ Permanent() bool }) {
	errors.As(err, &kind)
	return kind
}

// Invalid is the error of wrong arguments; nil if there is none.
func Invalid(problems ...string) error {
	if len(problems) == 0 {
		return nil
	}
	return &walerr.Error{Kind: walerr.Options, What: strings.Join(problems, "; ")}
}
