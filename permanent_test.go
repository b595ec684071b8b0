package walchan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/dial"
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

// Of several attempts the most telling one is what a connection has failed for.
func TestConnectErrorOfSeveralAttempts(t *testing.T) {
	dialled := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	unknown := &net.DNSError{Err: "no such host", Name: "db", IsNotFound: true}
	noTLS := errors.New("127.0.0.1:5432 (db): tls error: server refused TLS connection")
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")}
	starting, password, hba := serverError("57P03"), serverError("28P01"), serverError("28000")
	for _, tt := range []struct {
		dsn      string
		attempts []error
		kind     error
	}{
		{"host=db", []error{dialled}, ErrUnreachable},
		{"host=db", []error{alert}, ErrTLS},
		{"host=db", []error{noTLS}, ErrTLS},
		{"host=db", []error{dialled, alert}, ErrTLS},
		{"host=db", []error{dialled, password}, ErrAuthentication},          // localhost: ::1 and 127.0.0.1
		{"host=db", []error{noTLS, password}, ErrAuthentication},            // sslmode=prefer
		{"host=db", []error{password, dialled}, ErrAuthentication},          //
		{"host=db", []error{noTLS, dialled}, ErrUnreachable},                //
		{"host=db", []error{starting, hba}, ErrServerDown},                  // it was up a moment later
		{"host=db", []error{reset, hba}, ErrUnreachable},                    //
		{"host=db", []error{hba, starting}, ErrServerDown},                  //
		{"host=a,b", []error{dialled, password}, ErrUnreachable},            // a may come back
		{"host=a,b", []error{unknown, hba}, ErrUnreachable},                 //
		{"host=a,b", []error{password, dialled}, ErrUnreachable},            //
		{"host=a,b", []error{hba, password}, ErrAuthentication},             //
		{"host=a,b", []error{alert, noTLS}, ErrTLS},                         //
		{"host=a,b", []error{hba, serverError("53300")}, ErrTooManyClients}, //
	} {
		cfg, err := dial.Parse(tt.dsn)
		if err != nil {
			t.Fatal(err)
		}
		err = dial.Error(errors.Join(tt.attempts...), cfg)
		if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != tt.kind {
			t.Errorf("%s: %v is %v", tt.dsn, tt.attempts, err)
		}
		for _, a := range tt.attempts {
			if !errors.Is(err, a) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v lacks %v, or has lines", err, a)
			}
		}
	}
}

// That the server does no TLS is not said where nobody insists on it, and where it is why there is no connection it is.
func TestErrorWithoutTheTLSThatWasPreferred(t *testing.T) {
	refused := func(address string) error { return errors.New(address + ": tls error: server refused TLS connection") }
	failed := func(address string) error { return fmt.Errorf("%s: server error: %w", address, serverError("3D000")) }
	for _, tt := range []struct {
		attempts []error
		says     bool
	}{
		{[]error{refused("127.0.0.1:5432 (db)"), failed("127.0.0.1:5432 (db)")}, false},
		{[]error{refused("127.0.0.1:5432 (db)")}, true},
		{[]error{refused("127.0.0.1:5432 (a)"), failed("127.0.0.1:5432 (b)")}, true},
		{[]error{failed("127.0.0.1:5432 (a)"), refused("127.0.0.1:5432 (b)")}, true},
	} {
		text := causes.Line(errors.Join(tt.attempts...))
		if strings.Contains(text, "TLS") != tt.says || strings.Contains(text, "3D000") != (len(tt.attempts) > 1) {
			t.Errorf("of %q is said %q", tt.attempts, text)
		}
	}
}
