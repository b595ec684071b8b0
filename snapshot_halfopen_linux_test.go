package walchan_test

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// network knows the TCP connections of a stream, in the order in which they were made.
type network struct {
	mu    sync.Mutex
	conns []*net.TCPConn
}

func (n *network) option() walchan.Option {
	return walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.conns = append(n.conns, conn.(*net.TCPConn))
			}
			return conn, err
		}
		return nil
	})
}

// cut has no packet of the server's arrive any more on a connection, as behind a router that has failed: neither data nor
// acknowledgements, nor an end.
func (n *network) cut(t *testing.T, which int) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	raw, err := n.conns[which].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	nothing := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}}
	//lint:ignore SA1019 what is said to be better is a dependency
	if ctlErr := raw.Control(func(fd uintptr) { err = syscall.AttachLsf(int(fd), nothing) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
}

// A snapshot does not wait for ever for an answer over a connection that is dead and was not closed: of the locks it starts over,
// and the slot that was made without an answer is recognised.
func TestSnapshotOverADeadConnection(t *testing.T) {
	const ( // in the order in which they are made
		exporter = iota
		_        // looks for others that make the slot
		keeper
		worker
	)
	for name, which := range map[string]int{"exporter": exporter, "keeper": keeper, "worker": worker} {
		t.Run(name, func(t *testing.T) {
			if which == worker && os.Getenv("WALCHAN_HALF_OPEN") == "" {
				t.Skip("it takes a minute to notice; set WALCHAN_HALF_OPEN to see it")
			}
			db := ownServer(t, pgtest.WithSetting("wal_sender_timeout", "1s"))
			db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')", "ALTER TABLE t ALTER v SET STORAGE PLAIN",
				"INSERT INTO t SELECT g, repeat('x', 1900) FROM generate_series(1, 10000) g")
			n := &network{}
			s := open(t, t.Context(), db, n.option(), walchan.WithSnapshot(), walchan.WithSnapshotJobs(1), walchan.WithReceiveTimeout(time.Second))
			var ms []walchan.Message
			for range 100 {
				ms = append(ms, next(t, s))
			}
			n.cut(t, which)
			if which == worker {
				time.Sleep(45 * time.Second) // next is less patient
			}
			attempts := 1
			for {
				m := next(t, s)
				if ms = append(ms, m); m.Kind == walchan.SnapshotBegin {
					attempts++
				}
				if m.Kind == walchan.SnapshotEnd {
					break
				}
			}
			if want := 1 + btoi(which == keeper); attempts != want {
				t.Errorf("%d attempts, want %d", attempts, want)
			}
			ackAll(s, ms)
			insert(t, db, 20_001, 1, 1)
			wantIDs(t, take(t, s, 1), 20_001)
		})
	}
}
