package walchan_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// connectHook is what WithConnect takes.
type connectHook = func(context.Context, *pgconn.Config) error

// slotMakers are all the ways to make a slot. Each one drops the slot again if it succeeds.
var slotMakers = map[string]func(ctx context.Context, dsn, slot string, hook connectHook) error{
	"Subscribe": func(ctx context.Context, dsn, slot string, hook connectHook) error {
		s, err := walchan.Subscribe(ctx, dsn, walchan.WithConnect(hook), walchan.WithSlot(slot), walchan.WithCreateSlot(), walchan.WithPublication("p"))
		return closeAndDrop(s, err, dsn, slot)
	},
	"SubscribePhysical": func(ctx context.Context, dsn, slot string, hook connectHook) error {
		s, err := walchan.SubscribePhysical(ctx, dsn, walchan.WithConnect(hook), walchan.WithSlot(slot), walchan.WithCreateSlot())
		return closeAndDrop(s, err, dsn, slot)
	},
	"temporary": func(ctx context.Context, dsn, _ string, hook connectHook) error {
		s, err := walchan.Subscribe(ctx, dsn, walchan.WithConnect(hook), walchan.WithPublication("p"))
		if err == nil {
			s.Close()
		}
		return err
	},
	"snapshot": func(ctx context.Context, dsn, slot string, hook connectHook) error {
		s, err := walchan.Subscribe(ctx, dsn, walchan.WithConnect(hook), walchan.WithSlot(slot), walchan.WithSnapshot(), walchan.WithPublication("p"), walchan.WithDrainTimeout(0))
		if err == nil {
			s.Close()
		}
		return err
	},
	"CreateSlot": func(ctx context.Context, dsn, slot string, hook connectHook) error {
		return makeAndDrop(ctx, dsn, admin.SlotSpec{Name: slot}, admin.WithConnect(hook))
	},
	"CreatePhysicalSlot": func(ctx context.Context, dsn, slot string, hook connectHook) error {
		return makeAndDrop(ctx, dsn, admin.SlotSpec{Name: slot, Physical: true, ReserveWAL: true}, admin.WithConnect(hook), admin.WithPhysical())
	},
	"with a snapshot": func(ctx context.Context, dsn, slot string, hook connectHook) error {
		return makeAndDrop(ctx, dsn, admin.SlotSpec{Name: slot, Export: admin.ExportName}, admin.WithConnect(hook))
	},
}

func makeAndDrop(ctx context.Context, dsn string, spec admin.SlotSpec, opts ...admin.Option) error {
	c, err := admin.Connect(ctx, dsn, opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.CreateSlot(ctx, spec)
	return thenDrop(err, dsn, spec.Name)
}

func closeAndDrop(s *walchan.Stream, err error, dsn, slot string) error {
	if err == nil {
		s.Close()
	}
	return thenDrop(err, dsn, slot)
}

func thenDrop(err error, dsn, slot string) error {
	if err != nil {
		return err
	}
	c, err := admin.Connect(context.Background(), dsn)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.DropSlot(context.Background(), slot, admin.DropOptions{Wait: true})
}

// holdTransaction keeps a transaction open that has written, for which the making of a logical slot waits.
func holdTransaction(t *testing.T, db pgtest.DB) (end func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgconn.Connect(ctx, db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(ctx, "BEGIN; SELECT pg_current_xact_id()").Close(); err != nil {
		t.Fatal(err)
	}
	return func() { conn.Close(ctx) }
}

// newCluster starts a server with a table t, which the publication p has, and without a slot.
func newCluster(t *testing.T, opts ...pgtest.Option) pgtest.DB {
	t.Helper()
	noLeaks(t)
	t.Parallel()
	db := pgtest.DB{Cluster: pgtest.Start(t, opts...), Name: "postgres"}
	db.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t")
	return db
}

// afterCreate calls f some time after CREATE_REPLICATION_SLOT was sent, with the connection.
func afterCreate(delay time.Duration, f func(net.Conn)) connectHook {
	return func(_ context.Context, cfg *pgconn.Config) error {
		dial := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			return createWatcher{c, delay, f}, err
		}
		return nil
	}
}

type createWatcher struct {
	net.Conn
	delay time.Duration
	f     func(net.Conn)
}

func (w createWatcher) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("CREATE_REPLICATION_SLOT")) {
		time.AfterFunc(w.delay, func() { w.f(w.Conn) })
	}
	return w.Conn.Write(b)
}

// Whenever the context ends, or the connection breaks, a call that fails has left no slot.
func TestCancelledCallLeavesNoSlot(t *testing.T) {
	db := newCluster(t)
	calls := 24
	if testing.Short() {
		calls = 8
	}
	random := pgtest.Seeded(t)
	for _, busy := range []bool{false, true} {
		if busy {
			defer holdTransaction(t, db)()
		}
		var all sync.WaitGroup
		for name, makeSlot := range slotMakers {
			own := rand.New(rand.NewPCG(random.Uint64(), 0))
			all.Go(func() { cancelRandomly(t, db, own, fmt.Sprintf("%s, transaction %v", name, busy), calls, makeSlot) })
		}
		all.Wait()
	}
	db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots") // temporary ones go with the walsender
	noWalsender(t, db)
}

func cancelRandomly(t *testing.T, db pgtest.DB, random *rand.Rand, what string, calls int, makeSlot func(context.Context, string, string, connectHook) error) {
	slot := fmt.Sprintf("s%d", random.Uint64())
	failed := 0
	for i := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		end := func(net.Conn) { cancel() }
		broken := i%4 == 3
		if broken {
			end = func(c net.Conn) { c.Close() }
		}
		delay := time.Duration(random.IntN(40_000)) * time.Microsecond
		if i%8 == 0 {
			time.AfterFunc(delay, cancel) // perhaps before there is a connection
		}
		err := makeSlot(ctx, db.DSN(), slot, afterCreate(delay, end))
		if err != nil {
			failed++
			if broken && ctx.Err() == nil == !errors.Is(err, walchan.ErrUnreachable) || !broken && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
		}
		cancel()
		if left := db.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+slot+"' AND NOT temporary"); left != "0" {
			t.Errorf("%s: a slot is left (%v)", what, err)
			db.Exec(t, "SELECT pg_drop_replication_slot('"+slot+"')")
		}
	}
	t.Logf("%s: %d of %d calls failed", what, failed, calls)
}
