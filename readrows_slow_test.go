package walchan_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// farConn is a connection to a server that is far away.
type farConn struct{ net.Conn }

func (c farConn) Write(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return c.Conn.Write(p)
}

// However long an answer takes, ReadRows needs one connection.
func TestReadRowsFromAServerThatIsFarAway(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE w (id int PRIMARY KEY)", "INSERT INTO w SELECT generate_series(1, 500)", "ALTER PUBLICATION p ADD TABLE w")
	var dials atomic.Int32
	s := open(t, t.Context(), db, walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			conn, err := dial(ctx, network, address)
			return farConn{conn}, err
		}
		return nil
	}))
	done := reading(t, s, walchan.SnapshotTable{Name: "w"})
	for m := next(t, s); m.Kind != walchan.SnapshotEnd; m = next(t, s) {
		s.Ack(m)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections, want the stream's and one", n)
	}
}
