package walchan_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// halfOpen is a connection over which, from a moment on, nothing comes and nothing goes, though nobody closes it: as when a
// firewall forgets it.
type halfOpen struct {
	net.Conn
	cut *atomic.Bool
}

func (c halfOpen) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.cut.Load() {
			return n, err
		}
	}
}

func (c halfOpen) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c halfOpen) Close() error {
	if c.cut.Load() {
		return nil // the server does not hear of it
	}
	return c.Conn.Close()
}

func TestOwnOldWalsenderIsTerminated(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	var cut *atomic.Bool
	var old []net.Conn
	s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"),
		walchan.WithTerminateOld(), walchan.WithReceiveTimeout(time.Second), walchan.WithStatusInterval(100*time.Millisecond),
		walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
			dial := cfg.DialFunc
			cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				if err == nil && cut == nil {
					cut = new(atomic.Bool)
					old = append(old, c)
					c = halfOpen{c, cut}
				}
				return c, err
			}
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db.Exec(t, "INSERT INTO t VALUES (1)")
	ids(t, s, 1)
	pid := db.Query(t, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	cut.Store(true)
	began := time.Now()
	db.Exec(t, "INSERT INTO t VALUES (2)")
	if got := ids(t, s, 1); got[0] != 2 {
		t.Error(got)
	}
	// Without the option the server would hold the slot for wal_sender_timeout, a minute.
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if now := db.Query(t, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"); now == pid {
		t.Error("still over the old walsender")
	}
	old[0].Close()
}

// A process that has just ended may still hold the slot for a moment.
func TestSlotOfAProcessThatIsLeaving(t *testing.T) {
	db := newSource(t)
	holder, err := walchan.Subscribe(t.Context(), db.DSN(), on(db.Name)...)
	must(t, err)
	closed := make(chan error, 1)
	time.AfterFunc(300*time.Millisecond, func() { closed <- holder.Close() })
	s, err := walchan.Subscribe(t.Context(), db.DSN(), on(db.Name)...)
	must(t, err)
	must(t, s.Close())
	must(t, <-closed)
}

func TestSecondProcessWaitsForTheSlotAndTakesOver(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p")}
	first, err := walchan.Subscribe(t.Context(), db.DSN(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	var active *walchan.Error
	if _, err := walchan.Subscribe(t.Context(), db.DSN(), opts...); !errors.Is(err, walchan.ErrSlotActive) || !errors.As(err, &active) || active.PID == 0 {
		t.Fatalf("a second one without the option: %v", err)
	}
	waiting := make(chan struct{}, 100)
	second := make(chan *walchan.Stream, 1)
	go func() {
		s, err := walchan.Subscribe(t.Context(), db.DSN(), append(opts, walchan.WithWaitForSlot(), walchan.WithStateHook(func(walchan.Stats) { waiting <- struct{}{} }))...)
		if err != nil {
			t.Error(err)
		}
		second <- s
	}()
	<-waiting
	db.Exec(t, "INSERT INTO t VALUES (1)")
	ids(t, first, 1)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO t VALUES (2)")
	s := <-second
	if s == nil {
		return
	}
	defer s.Close()
	for ids(t, s, 1)[0] != 2 { // the first row may come again: its commit was perhaps not received when Close was called
	}
	// Waiting ends with the context.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = walchan.Subscribe(ctx, db.DSN(), append(opts, walchan.WithWaitForSlot(), walchan.WithStateHook(func(walchan.Stats) { cancel() }))...)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, walchan.ErrSlotActive) {
		t.Errorf("a third one, cancelled: %v", err)
	}
}
