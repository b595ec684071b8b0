package dial_test

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/walerr"
)

func serverError(state string) error {
	return &pgconn.PgError{Code: state, Message: "so sagt der Server"}
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
		{"host=db", []error{dialled}, walerr.Unreachable},
		{"host=db", []error{alert}, walerr.TLS},
		{"host=db", []error{noTLS}, walerr.TLS},
		{"host=db", []error{dialled, alert}, walerr.TLS},
		{"host=db", []error{dialled, password}, walerr.Authentication},          // localhost: ::1 and 127.0.0.1
		{"host=db", []error{noTLS, password}, walerr.Authentication},            // sslmode=prefer
		{"host=db", []error{password, dialled}, walerr.Authentication},          //
		{"host=db", []error{noTLS, dialled}, walerr.Unreachable},                //
		{"host=db", []error{starting, hba}, walerr.ServerDown},                  // it was up a moment later
		{"host=db", []error{reset, hba}, walerr.Unreachable},                    //
		{"host=db", []error{hba, starting}, walerr.ServerDown},                  //
		{"host=a,b", []error{dialled, password}, walerr.Unreachable},            // a may come back
		{"host=a,b", []error{unknown, hba}, walerr.Unreachable},                 //
		{"host=a,b", []error{password, dialled}, walerr.Unreachable},            //
		{"host=a,b", []error{hba, password}, walerr.Authentication},             //
		{"host=a,b", []error{alert, noTLS}, walerr.TLS},                         //
		{"host=a,b", []error{hba, serverError("53300")}, walerr.TooManyClients}, //
	} {
		cfg, err := dial.Parse(tt.dsn)
		if err != nil {
			t.Fatal(err)
		}
		err = dial.Error(errors.Join(tt.attempts...), cfg)
		if e := (*walerr.Error)(nil); !errors.As(err, &e) || e.Kind != tt.kind {
			t.Errorf("%s: %v is %v", tt.dsn, tt.attempts, err)
		}
		for _, a := range tt.attempts {
			if !errors.Is(err, a) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v lacks %v, or has lines", err, a)
			}
		}
	}
}
