package walchan_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// archive is WAL as it was received, by timeline, without a gap.
type archive struct {
	t       *testing.T
	s       *walchan.Stream
	first   map[uint32]walchan.LSN
	wal     map[uint32][]byte
	history map[uint32]string
	end     walchan.LSN
}

func newArchive(t *testing.T, s *walchan.Stream) *archive {
	return &archive{t: t, s: s, first: map[uint32]walchan.LSN{}, wal: map[uint32][]byte{}, history: map[uint32]string{}}
}

// take receives a message.
func (a *archive) take() walchan.Message {
	a.t.Helper()
	m := next(a.t, a.s)
	tli := m.Timeline()
	switch m.Kind {
	case walchan.TimelineHistory:
		if _, begun := a.wal[tli]; begun || a.history[tli] != "" {
			a.t.Errorf("the history of timeline %d comes late, or again", tli)
		}
		a.history[tli] = m.Payload()
	case walchan.WAL:
		if a.wal[tli] == nil {
			a.first[tli] = m.LSN
		} else if m.LSN != a.end {
			a.t.Fatalf("WAL at %s, after %s", m.LSN, a.end)
		}
		if a.end = m.End(); a.end != m.LSN+walchan.LSN(len(m.Payload())) {
			a.t.Errorf("%v ends at %s", m, a.end)
		}
		a.wal[tli] = append(a.wal[tli], m.Payload()...)
	default:
		a.t.Fatalf("message %v", m)
	}
	return m
}

// through receives and acknowledges up to a position.
func (a *archive) through(lsn walchan.LSN) {
	a.t.Helper()
	for a.end < lsn {
		a.s.Ack(a.take())
	}
}

const segmentSize = 16 << 20

// compare compares what was received of a timeline with the server's files.
func (a *archive) compare(c *pgtest.Cluster, timeline uint32) {
	a.t.Helper()
	at := a.first[timeline]
	for wal := a.wal[timeline]; len(wal) > 0; {
		n := min(len(wal), segmentSize-int(at%segmentSize))
		file, err := os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", fmt.Sprintf("%08X%08X%08X", timeline, uint32(at>>32), uint32(at)/segmentSize)))
		if err != nil {
			a.t.Fatal(err)
		}
		if !bytes.Equal(wal[:n], file[at%segmentSize:][:n]) {
			a.t.Fatalf("timeline %d from %s on: %d bytes differ from the server's", timeline, at, n)
		}
		wal, at = wal[n:], at+walchan.LSN(n)
	}
}

func physical(t *testing.T, c *pgtest.Cluster, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.SubscribePhysical(t.Context(), c.DSN(), append([]walchan.Option{walchan.WithLogger(logTo(t)), retrySoon}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func ownCluster(t *testing.T, opts ...pgtest.Option) *pgtest.Cluster {
	t.Helper()
	noLeaks(t)
	t.Parallel()
	return pgtest.Start(t, opts...)
}

// write writes some 100 kB of WAL.
const write = "CREATE TABLE IF NOT EXISTS w (a int, b text); INSERT INTO w SELECT g, repeat('x', 80) FROM generate_series(1, 500) g"

func flushed(t *testing.T, c *pgtest.Cluster) walchan.LSN {
	t.Helper()
	return parseLSN(t, pgtest.Query(t, c.DSN(), "SELECT pg_current_wal_flush_lsn()"))
}

func waitRestart(t *testing.T, c *pgtest.Cluster, slot string, lsn walchan.LSN) {
	t.Helper()
	pgtest.Wait(t, c.DSN(), fmt.Sprintf("SELECT restart_lsn >= '%s' FROM pg_replication_slots WHERE slot_name = '%s'", lsn, slot))
}

// The WAL comes byte for byte, without a gap and each byte once, wherever connections break, and is confirmed to its end.
func TestPhysicalWhereverTheConnectionBreaks(t *testing.T) {
	c := ownCluster(t)
	r := pgtest.Seeded(t)
	p := &tap{t: t}
	var begin walchan.LSN
	p.cut = func(dial int) int { // a connection first repeats the WAL of the segment, to prove it
		if dial == 1 {
			begin = p.received
		}
		last := p.received - 1
		proof := int(p.received - max(begin, last-last%segmentSize))
		return proof*101/100 + 1000 + r.IntN(1_000_000)
	}
	createPhysicalSlot(t, c.DSN(), "s")
	s := physical(t, c, walchan.WithSlot("s"), p.option())
	if src := s.Source(); src.Slot != "s" || src.SystemID == "" || src.Database != "" {
		t.Errorf("source %+v", src)
	}
	a := newArchive(t, s)
	for range 30 {
		pgtest.Exec(t, c.DSN(), write)
		a.through(flushed(t, c))
	}
	pgtest.Exec(t, c.DSN(), "SELECT pg_switch_wal()", write)
	a.through(flushed(t, c))
	waitRestart(t, c, "s", a.end)
	a.compare(c, 1)
	if a.first[1] == 0 || s.Stats().Reconnects < 5 {
		t.Errorf("began at %s: %+v", a.first[1], s.Stats())
	}

	mustClose(t, s)
	for range s.C() { // what was in the buffer: the server writes WAL by itself, too
	}
}

// What is not acknowledged is not confirmed, and a new process goes on where it says.
func TestPhysicalConfirmsWhatIsAcknowledged(t *testing.T) {
	c := ownCluster(t)
	s := physical(t, c, walchan.WithSlot("s"), walchan.WithCreateSlot())
	a := newArchive(t, s)
	pgtest.Exec(t, c.DSN(), write)
	end := flushed(t, c)
	a.through(end)
	waitRestart(t, c, "s", end)
	pgtest.Exec(t, c.DSN(), write)
	for a.end < flushed(t, c) {
		a.take() // not acknowledged
	}
	pgtest.Exec(t, c.DSN(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
	await(t, s, "it is connected again", func() bool { return s.Stats().Reconnects > 0 })
	flush(t, s)
	pgtest.Wait(t, c.DSN(), "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE write_lsn = pg_current_wal_flush_lsn())")
	if lsn := pgtest.Query(t, c.DSN(), "SELECT restart_lsn FROM pg_replication_slots"); parseLSN(t, lsn) > a.end || pgtest.Query(t, c.DSN(), "SELECT bool_and(flush_lsn <= '"+end.String()+"') FROM pg_stat_replication") != "t" {
		t.Errorf("%s was confirmed, and %s acknowledged", lsn, end)
	}
	mustClose(t, s)

	// Again from where the slot is, and from where it is told.
	for _, from := range []walchan.LSN{0, end - 1000} {
		opts := []walchan.Option{walchan.WithSlot("s")}
		want := parseLSN(t, pgtest.Query(t, c.DSN(), "SELECT restart_lsn FROM pg_replication_slots"))
		if from != 0 {
			opts, want = append(opts, walchan.WithWALFrom(from, 0)), from
		}
		s = physical(t, c, opts...)
		if m := next(t, s); m.LSN != want || m.Timeline() != 1 {
			t.Errorf("%v, want %s", m, want)
		}
		mustClose(t, s)
		if lsn := pgtest.Query(t, c.DSN(), "SELECT restart_lsn FROM pg_replication_slots"); lsn != want.String() {
			t.Errorf("without an acknowledgement %s was confirmed, and %s was where it began", lsn, want)
		}
	}
	s = physical(t, c, walchan.WithWALFrom(end, 1), walchan.WithWholeSegments())
	if m := next(t, s); m.LSN != end-end%segmentSize {
		t.Errorf("%v, want the beginning of a segment", m)
	}
}

// Without a slot and a position it begins now.
func TestPhysicalBeginsNow(t *testing.T) {
	c := ownCluster(t)
	pgtest.Exec(t, c.DSN(), write)
	now := flushed(t, c)
	s := physical(t, c)
	pgtest.Exec(t, c.DSN(), write)
	m := next(t, s)
	if m.Kind != walchan.WAL || m.LSN < now || m.LSN > flushed(t, c) || m.Tx != nil || m.SentAt().IsZero() || !strings.HasPrefix(m.String(), "wal at ") {
		t.Errorf("%v, at %s", m, now)
	}
	if _, ok := m.Position(); ok || s.Source().Slot != "" {
		t.Errorf("it has a Position, or a slot: %+v", s.Source())
	}
}

// A COMMIT waits for a physical stream as for a synchronous standby, until it is acknowledged.
func TestPhysicalSynchronousStandby(t *testing.T) {
	c := ownCluster(t, pgtest.WithSetting("synchronous_standby_names", "walchan"))
	pgtest.Exec(t, c.DSN("options='-c synchronous_commit=local'"), "CREATE TABLE w (a int)")
	s := physical(t, c)
	pgtest.Wait(t, c.DSN(), "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming')")
	for _, level := range []string{"on", "remote_apply"} {
		committed := make(chan error)
		go func() {
			conn, err := pgconn.Connect(context.Background(), c.DSN("options='-c synchronous_commit="+level+"'"))
			if err == nil {
				err = conn.Exec(context.Background(), "INSERT INTO w VALUES (1)").Close()
				conn.Close(context.Background())
			}
			committed <- err
		}()
		m := next(t, s)
		pgtest.Wait(t, c.DSN(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")
		select {
		case <-committed:
			t.Errorf("%s: committed before the acknowledgement", level)
		default:
		}
		s.Ack(m)
		for done := false; !done; {
			select {
			case m := <-s.C():
				s.Ack(m)
			case err := <-committed:
				done = true
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatalf("%s: not committed: %+v", level, s.Stats())
			}
		}
	}
}

// A fast shutdown waits for the last byte to be confirmed, and the stream goes on after the restart.
func TestPhysicalShutdown(t *testing.T) {
	c := ownCluster(t)
	s := physical(t, c, walchan.WithSlot("s"), walchan.WithCreateSlot())
	a := newArchive(t, s)
	pgtest.Exec(t, c.DSN(), write)
	a.through(flushed(t, c))
	stopped := make(chan error)
	began := time.Now()
	go func() { stopped <- c.Stop(context.Background(), pgtest.Fast) }()
	for running := true; running; {
		select {
		case m := <-s.C():
			a.end = m.End()
			s.Ack(m)
		case err := <-stopped:
			if running = false; err != nil {
				t.Error(err)
			}
		}
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if strings.Contains(c.Log(), "unexpected EOF") || s.Stats().State == walchan.StateClosed {
		t.Errorf("%+v", s.Stats())
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, c.DSN(), write)
	if m := next(t, s); m.LSN != a.end {
		t.Errorf("%v after %s", m, a.end)
	}
}

// standbyStream is a stream from a standby, which is then promoted.
func standbyStream(t *testing.T, opts ...walchan.Option) (*archive, *pgtest.Cluster) {
	t.Helper()
	primary := ownCluster(t)
	standby := primary.Standby(t)
	s := physical(t, standby, opts...)
	a := newArchive(t, s)
	pgtest.Exec(t, primary.DSN(), write)
	a.through(flushed(t, primary))
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, standby.DSN(), write)
	a.through(flushed(t, standby))
	return a, standby
}

func TestPhysicalFollowsATimeline(t *testing.T) {
	var failures atomic.Int32
	a, standby := standbyStream(t, walchan.WithStateHook(func(st walchan.Stats) {
		if st.State == walchan.StateRetrying {
			failures.Add(1)
		}
	}))
	if a.s.Stats().Reconnects == 0 || failures.Load() > 0 {
		t.Errorf("the end of a timeline is a failure, %d times: %+v", failures.Load(), a.s.Stats())
	}
	pgtest.Exec(t, standby.DSN(), "SELECT pg_terminate_backend(pid) FROM pg_stat_replication", write)
	a.through(flushed(t, standby))
	a.check(standby)
	if a.first[2] != a.first[1]+walchan.LSN(len(a.wal[1])) {
		t.Errorf("timeline 2 begins at %s, and %d bytes from %s on were of timeline 1", a.first[2], len(a.wal[1]), a.first[1])
	}

	// Another process, from the first timeline on; and one that has no timeline to tell.
	for _, timeline := range []uint32{1, 0} {
		b := newArchive(t, physical(t, standby, walchan.WithWALFrom(a.first[1], timeline)))
		b.through(a.end)
		b.check(standby)
		if !bytes.Equal(a.wal[1], b.wal[1]) || b.first[2] != a.first[2] {
			t.Errorf("%d bytes of timeline 1, and timeline 2 from %s on", len(b.wal[1]), b.first[2])
		}
		mustClose(t, b.s)
	}

	// What lies behind the fork is not this server's.
	_, err := walchan.SubscribePhysical(t.Context(), standby.DSN(), walchan.WithWALFrom(a.first[2]+1, 1))
	check(t, err, walchan.ErrDiverged, "timeline 1", a.first[2].String())
	_, err = walchan.SubscribePhysical(t.Context(), standby.DSN(), walchan.WithWALFrom(a.end, 3))
	check(t, err, walchan.ErrDiverged, "timeline 3")
	_, err = walchan.SubscribePhysical(t.Context(), standby.DSN(), walchan.WithWALFrom(a.end+(1<<40), 2))
	check(t, err, walchan.ErrDiverged, "the server's WAL ends at")
}

// check compares an archive of two timelines with the server's files.
func (a *archive) check(standby *pgtest.Cluster) {
	a.t.Helper()
	a.compare(standby, 1)
	a.compare(standby, 2)
	file, err := os.ReadFile(filepath.Join(standby.DataDir(), "pg_wal", "00000002.history"))
	if err != nil || a.history[2] != string(file) || a.history[1] != "" {
		a.t.Errorf("history %q, want %q (%v)", a.history, file, err)
	}
}

func TestPhysicalWholeSegments(t *testing.T) {
	a, standby := standbyStream(t, walchan.WithWholeSegments())
	a.check(standby)
	for timeline, lsn := range a.first {
		if lsn%segmentSize != 0 {
			t.Errorf("timeline %d begins at %s", timeline, lsn)
		}
	}
	if fork := a.first[1] + walchan.LSN(len(a.wal[1])); a.first[2] != fork-fork%segmentSize || a.first[2] == fork {
		t.Errorf("timeline 2 begins at %s, and 1 ends at %s", a.first[2], fork)
	}
}

// A standby that lacks what was delivered is not gone on with, though it has WAL of its own there.
func TestPhysicalDiverged(t *testing.T) {
	primary := ownCluster(t)
	standby := primary.Standby(t)
	var at atomic.Pointer[pgtest.Cluster]
	at.Store(primary)
	s := physical(t, primary, walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
		cfg.Port = uint16(at.Load().Port())
		return nil
	}))
	a := newArchive(t, s)
	pgtest.Exec(t, primary.DSN(), write)
	lsn := flushed(t, primary)
	a.through(lsn)
	pgtest.Wait(t, standby.DSN(), "SELECT pg_last_wal_replay_lsn() >= '"+lsn.String()+"'")
	pgtest.Exec(t, standby.DSN(), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	pgtest.Wait(t, standby.DSN(), "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
	pgtest.Exec(t, primary.DSN(), write)
	a.through(flushed(t, primary))
	at.Store(standby)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, standby.DSN(), write, write, write)
	for m := range s.C() {
		t.Errorf("%v came from the diverged server", m)
	}
	check(t, s.Err(), walchan.ErrDiverged, "before the end of what was delivered")
}

func TestPhysicalErrors(t *testing.T) {
	c := ownCluster(t, pgtest.WithSetting("max_slot_wal_keep_size", "1MB"), pgtest.WithSetting("wal_keep_size", "0"), pgtest.WithSetting("checkpoint_timeout", "1h"))
	try := func(opts ...walchan.Option) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := walchan.SubscribePhysical(ctx, c.DSN(), append([]walchan.Option{walchan.WithLogger(logTo(t))}, opts...)...)
		if err == nil {
			defer s.Close()
			for range s.C() {
			}
			err = s.Err()
		}
		return err
	}
	check(t, try(walchan.WithPublication("p"), walchan.WithTransactions(), walchan.WithBinary(), walchan.WithWaitForSlot()), walchan.ErrOptions,
		"WithPublication, WithTransactions, WithBinary: for logical replication only", "WithWaitForSlot needs WithSlot")
	check(t, try(walchan.WithPlugin("test_decoding", nil)), walchan.ErrOptions, "WithPlugin")
	check(t, try(walchan.WithPluginOption("a", "b"), walchan.WithWALFrom(0, 1)), walchan.ErrOptions, "WithPluginOption", "WithWALFrom(0/0, 1)")
	check(t, trySubscribe(t, c.DSN(), walchan.WithPublication("p"), walchan.WithWALFrom(1, 1), walchan.WithWholeSegments()), walchan.ErrOptions,
		"WithWALFrom, WithWholeSegments: for physical replication only")

	pgtest.Exec(t, c.DSN(), "SELECT pg_create_logical_replication_slot('logical', 'pgoutput'), pg_create_physical_replication_slot('unreserved')",
		"SELECT pg_drop_replication_slot('logical'); SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
	check(t, try(walchan.WithSlot("logical")), walchan.ErrSlotMismatch, `"logical"`, "physical slot")
	check(t, try(walchan.WithSlot("none")), walchan.ErrSlotMissing, `"none"`)
	_ = physical(t, c, walchan.WithSlot("active"), walchan.WithCreateSlot())
	check(t, try(walchan.WithSlot("active")), walchan.ErrSlotActive, `"active"`, "by PID")
	mustClose(t, physical(t, c, walchan.WithSlot("unreserved")))

	// WAL that is gone.
	begin := flushed(t, c)
	createPhysicalSlot(t, c.DSN(), "lost")
	for range 4 {
		pgtest.Exec(t, c.DSN(), write, "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	pgtest.Wait(t, c.DSN(), "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = 'lost'")
	check(t, try(walchan.WithWALFrom(begin, 1)), walchan.ErrWALRemoved, "archive")
	check(t, try(walchan.WithSlot("lost"), walchan.WithWALFrom(begin, 1)), walchan.ErrWALRemoved, "archive")
	if slot := slotNamed(t, c.DSN(), "lost"); slot.WALStatus != "lost" {
		t.Errorf("%+v", slot)
	}
	if err := try(walchan.WithWALFrom(begin, 1)); !errors.As(err, new(*pgconn.PgError)) {
		t.Errorf("%v has not the server's error", err)
	}
}

// A role that may connect for physical replication only can stream.
func TestPhysicalNeedsNoDatabase(t *testing.T) {
	c := ownCluster(t, pgtest.WithHBA("host replication archivist 127.0.0.1/32 trust", "host all archivist 127.0.0.1/32 reject"))
	pgtest.Exec(t, c.DSN(), "CREATE ROLE archivist LOGIN REPLICATION")
	dsn := c.DSN("user=archivist")
	_, err := admin.Connect(t.Context(), dsn)
	check(t, err, walchan.ErrAuthentication, "pg_hba.conf")
	createPhysicalSlot(t, dsn, "s")
	if c.Version() < 15 {
		_, err := walchan.SubscribePhysical(t.Context(), dsn, walchan.WithSlot("s"))
		check(t, err, walchan.ErrAuthentication, "pg_hba.conf") // the slot is looked up in the catalogue
	} else {
		s, err := walchan.SubscribePhysical(t.Context(), dsn, walchan.WithSlot("s"))
		if err != nil {
			t.Fatal(err)
		}
		s.Ack(next(t, s))
		mustClose(t, s)
	}
	conn, err := pgconn.Connect(t.Context(), dsn)
	if err == nil {
		conn.Close(t.Context())
		t.Error("the role may connect")
	}
}
