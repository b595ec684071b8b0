package walchan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
)

func serverError(state string) error {
	return &pgconn.PgError{Code: state, Message: "so sagt der Server"}
}

func TestIsPermanent(t *testing.T) {
	passing := []error{
		ErrUnreachable, ErrServerDown, ErrTooManyClients, ErrTLS, ErrSlotActive, ErrNoFreeSlot, ErrServer,
		serverError("08000"), serverError("08003"), serverError("08006"), serverError("08P01"),
		serverError("53100"), serverError("53200"), serverError("53300"), serverError("53400"),
		serverError("55000"), // "being synchronized", among others: the slot tells whether it is invalidated
		serverError("55006"), serverError("57014"), serverError("57P01"), serverError("57P02"), serverError("57P03"), serverError("57P05"),
		serverError("40001"), serverError("40P01"), serverError("22P02"), serverError("58030"), serverError("XX000"), serverError("XX001"), serverError("P0001"),
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNREFUSED, syscall.ECONNRESET, os.ErrDeadlineExceeded, context.DeadlineExceeded,
		&net.DNSError{IsNotFound: true}, session.ErrServerStopped, errors.New("what nobody knows"), errAgain,
		&Error{Kind: ErrServerDown, Err: serverError("0A000")}, // of a standby, which may be promoted
		&Error{Kind: ErrServer, Err: serverError("XX000")},
		slots.InRecovery("it", serverError("0A000")),
	}
	permanent := []error{
		ErrOptions, ErrServerVersion, ErrAuthentication, ErrPermission, ErrDatabaseMissing, ErrWALLevel,
		ErrSlotMissing, ErrSlotExists, ErrSlotMismatch, ErrSlotLost, ErrSlotInvalidated, ErrSlotMoved, ErrWALRemoved, ErrDiverged,
		ErrPublicationMissing, ErrPublication, ErrTableMissing, ErrPluginMissing, ErrPluginOption, ErrProtocol, ErrClosed,
		serverError("42704"), serverError("58P01"), serverError("28000"), serverError("28P01"), serverError("42501"),
		serverError("3D000"), serverError("57P04"), serverError("0A000"),
		invalid("it"), slots.Invalidated("s", "wal_removed", serverError("55000")), slots.Missing("s", nil),
		&Error{Kind: ErrSlotLost, Err: &Error{Kind: ErrUnreachable, Err: io.EOF}},
		&Error{Kind: ErrServer, Err: serverError("0A000")},
	}
	for want, errs := range map[bool][]error{false: passing, true: permanent} {
		for _, err := range errs {
			for _, e := range []error{err, fmt.Errorf("while streaming: %w", err)} {
				if pgfail.IsPermanent(e) != want {
					t.Errorf("%v: permanent is %v", e, !want)
				}
			}
		}
	}
}
