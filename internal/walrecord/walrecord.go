// Package walrecord looks up one transaction in a server's WAL: does the record at a position commit (or prepare) it?
//
// A checkpoint names its last transaction by position, XID and time. Two servers that were copied from one write different transactions at
// the same position, even with the same XID. Only the times differ. So the record proves whether the server's history contains the transaction.
package walrecord

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walchan/walchan/internal/session"
)

// Want is the transaction to look for, as pgoutput's Begin and Begin Prepare describe it.
type Want struct {
	LSN      uint64 // where its commit record begins; if Prepared, its prepare record
	XID      uint32
	Time     int64 // microseconds since 2000-01-01 UTC
	Prepared bool  // look for PREPARE TRANSACTION, otherwise for COMMIT or COMMIT PREPARED
}

// Answer says whether the WAL contains a transaction. The zero value is None.
type Answer uint8

const (
	None Answer = iota // not known
	Yes                // the record is there
	No                 // something else is there
)

func (a Answer) String() string {
	switch a {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "none"
}

const (
	patience = 5 * time.Second // for all of Find; a server needs some milliseconds
	most     = 16 << 20        // bytes of WAL that Find reads for one record: a million invalidation messages
)

var errPatience = fmt.Errorf("no answer within %v", patience)

// Find reads the record at want.LSN from the server. The answer is None if and only if the error is not nil. The error says why: the server
// refused (a *pgconn.PgError), its WAL ends before the record does, five seconds passed, ctx ended, or its version is not known here.
//
// conn is a walsender connection that has not streamed yet. Its role needs the attribute REPLICATION. With replication=database it needs no
// line for replication in pg_hba.conf. Find leaves it streaming, so the caller closes it. timeline is where the server's history has want.LSN.
func Find(ctx context.Context, conn *pgconn.PgConn, timeline int32, want Want) (Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errPatience)
	defer cancel()
	answer, err := find(ctx, conn, timeline, want)
	if err == nil {
		return answer, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return None, fmt.Errorf("read the record at %s of timeline %d: %w", pglogrepl.LSN(want.LSN), timeline, err)
}

func find(ctx context.Context, conn *pgconn.PgConn, timeline int32, want Want) (Answer, error) {
	blockSize, err := readBlockSize(ctx, conn)
	if err != nil {
		return None, err
	}
	// PostgreSQL 14 demands this command of every connection to a standby (StartReplication in src/backend/replication/walsender.c).
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return None, err
	}
	if system.Timeline == timeline && want.LSN >= uint64(system.XLogPos) {
		return None, fmt.Errorf("the server's WAL ends at %s", system.XLogPos)
	}
	start := pglogrepl.LSN(want.LSN - want.LSN%uint64(blockSize))
	// Without a slot: the server need not keep this WAL for us.
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", start, timeline)})
	if err := conn.Frontend().Flush(); err != nil {
		return None, err
	}
	var wal []byte
	for {
		data, err := receive(ctx, conn, start+pglogrepl.LSN(len(wal)))
		if err != nil {
			return None, err
		}
		wal = append(wal, data...)
		answer, err := Parse(wal, blockSize, want)
		switch {
		case !errors.Is(err, io.ErrUnexpectedEOF):
			return answer, err
		case len(wal) > most:
			return None, fmt.Errorf("the record does not end within %d bytes", most)
		}
	}
}

func readBlockSize(ctx context.Context, conn *pgconn.PgConn) (int, error) {
	rows, err := session.Query(ctx, conn, "SHOW wal_block_size")
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return 0, errors.New("unexpected answer to SHOW wal_block_size")
	}
	n, err := strconv.Atoi(rows[0][0])
	if err != nil {
		return 0, fmt.Errorf("wal_block_size: %w", err)
	}
	return n, checkBlockSize(n)
}

// receive returns the stream's next bytes of WAL, which must be those at next. They are valid until the next call.
func receive(ctx context.Context, conn *pgconn.PgConn, next pglogrepl.LSN) ([]byte, error) {
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		case *pgproto3.CopyData:
			if len(msg.Data) == 0 || msg.Data[0] != pglogrepl.XLogDataByteID {
				continue // a keepalive; it needs no reply within our patience
			}
			data, err := pglogrepl.ParseXLogData(msg.Data[1:])
			if err != nil {
				return nil, err
			}
			if data.WALStart != next {
				return nil, fmt.Errorf("the server sent WAL at %s instead of %s", data.WALStart, next)
			}
			return data.WALData, nil
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(msg)
		default: // CopyDone, or a row with the next timeline instead of a stream (StartReplication in walsender.c)
			return nil, fmt.Errorf("the server ended the stream: its timeline ends before the record (%T)", msg)
		}
	}
}
