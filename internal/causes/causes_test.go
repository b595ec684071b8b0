package causes_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/causes"
)

// That the server does no TLS is not said where nobody insists on it, and where it is why there is no connection it is.
func TestErrorWithoutTheTLSThatWasPreferred(t *testing.T) {
	refused := func(address string) error { return errors.New(address + ": tls error: server refused TLS connection") }
	failed := func(address string) error {
		return fmt.Errorf("%s: server error: %w", address, &pgconn.PgError{Code: "3D000", Message: "so sagt der Server"})
	}
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
