package snapshot

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/walerr"
)

// A worker may come when the connection that exports the snapshot has just been lost. That is to start over, not to end.
func TestSnapshotThatIsGoneIsNotPermanent(t *testing.T) {
	cfg, err := pgconn.ParseConfig(pgtest.Database(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := session.DialOrdinary(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := New(Request{}, "0000008F-00000008-1", 0, nil).join(t.Context(), conn); !errors.Is(err, walerr.Unreachable) || pgfail.IsPermanent(err) {
		t.Errorf("error is %v", err)
	}
}
