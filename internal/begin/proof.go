package begin

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/walrecord"
)

// Answer is what the server says of the last transaction.
type Answer struct {
	Is YesNo
	By string
}

// YesNo is an answer that may be open.
type YesNo uint8

// The answers.
const (
	Unknown YesNo = iota
	Yes
	No
)

// HasTransaction asks over a new connection whether the server has the last transaction of p.
func (r *Remote) HasTransaction(ctx context.Context, server *dial.Reached, p resume.Point) (Answer, error) {
	side, err := server.DialBeside(ctx, false)
	if err != nil {
		return Answer{}, err
	}
	defer side.Close(context.WithoutCancel(ctx))
	return r.hasTransaction(ctx, side, p)
}

// hasTransaction looks at the commit timestamp of the last transaction, then at its record in the WAL, then at the status of the XID.
// Afterwards side can only be closed.
func (r *Remote) hasTransaction(ctx context.Context, side *pgconn.PgConn, p resume.Point) (Answer, error) {
	if !p.HasTransaction() || p.IsBare() {
		return Answer{By: "no transaction is known"}, nil
	}
	if !p.Prepared {
		if is := commitTimestamp(ctx, side, p); is != Unknown {
			return Answer{is, "by its commit timestamp"}, nil
		}
	}
	// The status first: nothing can be asked over the connection once it has streamed.
	lost, status := isLost(ctx, side, p)
	is, err := commitRecord(ctx, side, p, resume.TimelineAt(p.Commit, r.History, r.System.Timeline))
	if err := context.Cause(ctx); err != nil {
		return Answer{}, pgfail.Failed("ask for the last transaction", err)
	}
	switch {
	case is != Unknown:
		return Answer{is, "by its record in the WAL"}, nil
	case lost:
		return Answer{No, status}, nil
	}
	why := "its record in the WAL cannot be read"
	if err != nil {
		why += ": " + causes.Line(err)
	}
	return Answer{By: why}, nil
}

// commitTimestamp asks for the time of a transaction, which a server knows that has track_commit_timestamp on.
func commitTimestamp(ctx context.Context, conn *pgconn.PgConn, p resume.Point) YesNo {
	rows, err := session.Query(ctx, conn, fmt.Sprintf("SELECT (extract(epoch from pg_catalog.pg_xact_commit_timestamp('%d'::pg_catalog.xid)) * 1000000)::pg_catalog.int8 - %d", p.XID, pgtime.Epoch))
	if err != nil || len(rows) != 1 || rows[0][0] == "" {
		return Unknown
	}
	if rows[0][0] == strconv.FormatInt(p.Time, 10) {
		return Yes
	}
	return No
}

// isLost says whether the server has never assigned the XID, or has rolled the transaction back. A prepared one may be rolled
// back after it was delivered.
func isLost(ctx context.Context, conn *pgconn.PgConn, p resume.Point) (bool, string) {
	if p.Prepared {
		return false, ""
	}
	switch status, err := transactionStatus(ctx, conn, p.XID); {
	case err != nil:
		return false, ""
	case status == "future":
		return true, "it has not come to that transaction"
	default:
		return status == "aborted", "it was rolled back there"
	}
}

// isCommitted says whether the server knows the transaction as committed.
func isCommitted(ctx context.Context, conn *pgconn.PgConn, xid uint32) bool {
	is, err := transactionStatus(ctx, conn, xid)
	return err == nil && is == "committed"
}

// transactionStatus returns "committed", "aborted" or "in progress". It returns "" if the transaction is too old to be known, and
// "future" if the server has not begun it.
func transactionStatus(ctx context.Context, conn *pgconn.PgConn, xid32 uint32) (string, error) {
	rows, err := session.Query(ctx, conn, "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())")
	if err != nil || len(rows) != 1 {
		return "", pgfail.Failed("look up the next transaction", err)
	}
	next, err := strconv.ParseUint(rows[0][0], 10, 64)
	if err != nil {
		return "", pgfail.Failed("look up the next transaction", err)
	}
	xid := next&^0xFFFFFFFF | uint64(xid32)
	if xid >= next && xid < 1<<32 {
		return "future", nil
	}
	if xid >= next {
		xid -= 1 << 32
	}
	rows, err = session.Query(ctx, conn, fmt.Sprintf("SELECT pg_catalog.pg_xact_status('%d'::pg_catalog.xid8)", xid))
	if err != nil || len(rows) != 1 {
		return "", pgfail.Failed("look up a transaction", err)
	}
	return rows[0][0], nil
}

// commitRecord reads the record that commits or prepares the transaction out of the server's WAL. side can only be closed afterwards.
func commitRecord(ctx context.Context, side *pgconn.PgConn, p resume.Point, timeline int32) (YesNo, error) {
	want := walrecord.Want{LSN: uint64(p.Commit), XID: p.XID, Time: p.Time, Prepared: p.Prepared}
	answer, err := walrecord.Find(ctx, side, timeline, want)
	switch answer {
	case walrecord.Yes:
		return Yes, nil
	case walrecord.No:
		return No, nil
	}
	return Unknown, err
}
