package walchan_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// A consumer that stops for three times wal_sender_timeout goes on with the next message, over the same connection.
func TestLivenessWhileTheConsumerStops(t *testing.T) {
	const timeout = 2 * time.Second // wal_sender_timeout
	for name, opts := range map[string][]walchan.Option{
		"taking nothing":        nil,
		"acknowledging nothing": {walchan.WithMaxUnacked(1)},
	} {
		t.Run(name, func(t *testing.T) {
			db := newSource(t)
			// More than the sockets hold: the server is blocked too.
			db.Exec(t, "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g")
			s, err := walchan.Subscribe(t.Context(), db.DSN("application_name="+db.Name, "options='-c wal_sender_timeout="+timeout.String()+"'"),
				append(usual(t, db), opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			m := next(t, s)
			time.Sleep(3 * timeout) // this is about time
			db.Wait(t, "SELECT now() - reply_time < '"+timeout.String()+"' FROM pg_stat_replication WHERE application_name = '"+db.Name+"'")
			for want := 1; want <= 1000; want++ {
				if id(m) != want {
					t.Fatalf("row %d, want %d", id(m), want)
				}
				s.Ack(m)
				m = next(t, s)
			}
			if st := s.Stats(); st.Reconnects > 0 {
				t.Errorf("%d reconnects", st.Reconnects)
			}
			for line := range strings.Lines(db.Log()) {
				if strings.Contains(line, " "+db.Name+" ") && strings.Contains(line, "timeout") {
					t.Errorf("the server logged: %s", line)
				}
			}
		})
	}
}

// While a new connection looks for a proof over a second one, and that takes long, the server must not give it up: the next one
// would fare no better.
func TestLivenessWhileTheProofIsSlow(t *testing.T) {
	const timeout = 2 * time.Second // wal_sender_timeout
	db := newSource(t)
	dials := func(_ context.Context, cfg *pgconn.Config) error {
		dial, n := cfg.DialFunc, 0
		cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			if n++; n > 1 { // of the second connection
				time.Sleep(2 * timeout) // this is about time
			}
			return dial(ctx, network, address)
		}
		return nil
	}
	for name, opts := range map[string][]walchan.Option{"by the timer": nil, "when asked only": {walchan.WithStatusInterval(time.Minute)}} {
		s, err := walchan.Subscribe(t.Context(), db.DSN("application_name="+db.Name, "options='-c wal_sender_timeout="+timeout.String()+"'"),
			append(append(usual(t, db), walchan.WithConnect(dials)), opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		insert(t, db, 1, 1, 1)
		s.Ack(next(t, s))
		db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'", "DELETE FROM t")
		m := next(t, s)
		s.Ack(m)
		if m.Kind != walchan.Delete {
			t.Errorf("%s: received %v", name, m)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Nor does an idle stream lose its connection, be it by the timer or because the server asks.
func TestLivenessWithoutTraffic(t *testing.T) {
	for name, opts := range map[string][]walchan.Option{
		"by the timer":    nil,
		"when asked only": {walchan.WithStatusInterval(time.Minute), walchan.WithReceiveTimeout(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			db := newSource(t)
			s, err := walchan.Subscribe(t.Context(), db.DSN("options='-c wal_sender_timeout=1s'"), append(usual(t, db), opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			awaitState(t, s, walchan.StateIdle)
			time.Sleep(3 * time.Second) // this is about time
			insert(t, db, 1, 1, 1)
			wantIDs(t, []walchan.Message{next(t, s)}, 1)
			if st := s.Stats(); st.Reconnects > 0 {
				t.Errorf("%d reconnects", st.Reconnects)
			}
		})
	}
}

// A server that does not answer any more is noticed; the stream goes on with it when it does.
func TestLivenessOfTheServer(t *testing.T) {
	db := ownServer(t)
	insert(t, db, 1, 1, 1)
	s := open(t, t.Context(), db, walchan.WithReceiveTimeout(time.Second))
	s.Ack(next(t, s))
	if err := db.Pause(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, s, walchan.StateRetrying)
	if err := s.Stats().Err; err == nil || !strings.Contains(err.Error(), "nothing for 1s") {
		t.Errorf("Stats.Err is %v", err)
	}
	if err := db.Resume(); err != nil {
		t.Fatal(err)
	}
	insert(t, db, 2, 1, 1)
	wantIDs(t, []walchan.Message{next(t, s)}, 2)
}

// The stream is a synchronous standby: COMMIT waits for the acknowledgement, and returns at once after it. That of an
// unpublished table waits for nobody.
func TestStatusFollowsAnAckWithinMilliseconds(t *testing.T) {
	const rounds = 30
	db := ownServer(t, pgtest.WithSetting("synchronous_standby_names", "consumer"))
	s := openAs(t, db, "consumer")
	conn := pgtest.Connect(t, db.DSN())
	pid := conn.PgConn().PID()
	var published, unpublished []time.Duration
	for i := range rounds {
		committed := make(chan time.Time)
		go func() {
			run(t, conn, "INSERT INTO t VALUES ("+itoa(i)+")")
			committed <- time.Now()
		}()
		m := next(t, s)
		waitSyncRep(t, db, pid)
		acked := time.Now()
		s.Ack(m)
		published = append(published, (<-committed).Sub(acked))

		began := time.Now()
		run(t, conn, "INSERT INTO quiet VALUES (1)")
		unpublished = append(unpublished, time.Since(began))
	}
	// The median: the machine may have other things to do now and then, the status interval is 10 s.
	for what, d := range map[string][]time.Duration{"published": published, "unpublished": unpublished} {
		slices.Sort(d)
		t.Logf("COMMIT of the %s table: median %v, %v to %v", what, d[rounds/2], d[0], d[rounds-1])
		if d[rounds/2] > 100*time.Millisecond {
			t.Errorf("COMMIT of the %s table took %v", what, d[rounds/2])
		}
	}
}

// What was acknowledged without a connection is told with the next one, at once: a COMMIT may be waiting for it.
func TestStatusFollowsAReconnectWithinMilliseconds(t *testing.T) {
	db := ownServer(t, pgtest.WithSetting("synchronous_standby_names", "consumer"))
	p := &tap{t: t, hold: make(chan struct{})}
	hold := make(chan struct{})
	p.hold = hold
	s := openAs(t, db, "consumer", p.option())
	// The walsender has something to read before it has caught up: a status that it gets before releases nobody.
	pgtest.Exec(t, db.DSN("options='-c synchronous_commit=local'"), "INSERT INTO quiet SELECT generate_series(1, 100000)")
	conn := pgtest.Connect(t, db.DSN())
	committed := make(chan time.Time)
	go func() {
		run(t, conn, "INSERT INTO t VALUES (1)")
		committed <- time.Now()
	}()
	m := next(t, s)
	waitSyncRep(t, db, conn.PgConn().PID())
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	s.Ack(m)
	began := time.Now()
	close(hold)
	db.Wait(t, "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'")
	caughtUp := time.Since(began) // nobody is released before, and the stream looks again in pauses that double
	if d := (<-committed).Sub(began); d > 2*caughtUp+3*time.Second {
		t.Errorf("COMMIT returned %v after the reconnect, the walsender had caught up after %v; the status interval is 10 s", d, caughtUp)
	}
}

// openAs is open with an application_name.
func openAs(t *testing.T, db pgtest.DB, name string, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), db.DSN("application_name="+name), append(usual(t, db), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// waitSyncRep waits until a process waits for its synchronous standby.
func waitSyncRep(t *testing.T, db pgtest.DB, pid uint32) {
	t.Helper()
	db.Wait(t, "SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity WHERE pid = "+itoa(int(pid)))
}

// No acknowledgement is overlooked, also in the moment in which the stream sets the deadline of a read, which is drawn out here.
// One that is would be told when the stream looks up the next time by itself, after 3 s. The server is one of its own, for what
// another test does there would wake the stream.
func TestStatusMissesNoAck(t *testing.T) {
	const rounds = 1000
	r := pgtest.Seeded(t)
	db := ownServer(t)
	insert(t, db, 1, 1, rounds)
	p := &tap{t: t, arm: func() { time.Sleep(100 * time.Microsecond) }}
	s := open(t, t.Context(), db, p.option())
	for range rounds {
		m := next(t, s)
		time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		s.Ack(m)
		acked := time.Now()
		if d := p.waitFlush(m.Tx.CommitLSN + 1).Sub(acked); d > 2*time.Second {
			t.Fatalf("row %d was acknowledged, and the server told of it after %v", id(m), d)
		}
	}
}

// A server that is stopped in the usual way waits for its consumers without a limit, and asks them without a pause. It is let
// go, whatever the consumer does, and the stream goes on when it is back.
func TestShutdownIsNotHeldUp(t *testing.T) {
	for name, consume := range map[string]func(t *testing.T, s *walchan.Stream){
		"all acknowledged": func(t *testing.T, s *walchan.Stream) { ackAll(s, take(t, s, shutdownRows)) },
		"consumer slow": func(t *testing.T, s *walchan.Stream) {
			stop := make(chan struct{})
			done := make(chan struct{})
			t.Cleanup(func() { close(stop); <-done })
			go func() {
				defer close(done)
				for {
					select {
					case m := <-s.C():
						s.Ack(m)
						time.Sleep(time.Millisecond) // it is slow
					case <-stop:
						return
					}
				}
			}()
		},
		"nothing acknowledged": func(t *testing.T, s *walchan.Stream) {
			take(t, s, shutdownRows)
			awaitState(t, s, walchan.StateIdle)
		},
		"nothing taken": func(t *testing.T, s *walchan.Stream) { awaitState(t, s, walchan.StateBlocked) },
		"too much unacknowledged": func(t *testing.T, s *walchan.Stream) {
			take(t, s, 1000)
			awaitState(t, s, walchan.StateUnacked)
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := ownServer(t)
			// More than the sockets hold.
			db.Exec(t, "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, "+itoa(shutdownRows)+") g")
			var opts []walchan.Option
			if name == "too much unacknowledged" {
				opts = append(opts, walchan.WithMaxUnacked(1000))
			}
			s, p := tapped(t, db, opts...)
			consume(t, s)
			began := time.Now()
			stopInTime(t, db)
			// Its requests are answered ten times a second, however often it asks.
			p.mu.Lock()
			defer p.mu.Unlock()
			n := 0
			for _, status := range p.statuses {
				n += btoi(status.at.After(began))
			}
			if most := 10 + int(time.Since(began)/(100*time.Millisecond)); n > most && name != "consumer slow" {
				t.Errorf("%d statuses, want %d at most", n, most)
			}
		})
	}
}

const shutdownRows = 20_000

func stopInTime(t *testing.T, db pgtest.DB) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := db.Stop(ctx, pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the server has stopped after %v, want within 10 s", d)
	}
}

// Nor is it held up by a stream that is draining.
func TestShutdownIsNotHeldUpByADrain(t *testing.T) {
	db := ownServer(t)
	insert(t, db, 1, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db, walchan.WithDrainTimeout(time.Minute))
	next(t, s)
	cancel()
	awaitState(t, s, walchan.StateDraining)
	stopInTime(t, db)
}

// A stream that has let the server go goes on when it is back, with everything once.
func TestShutdownCostsNoChange(t *testing.T) {
	db := ownServer(t)
	insert(t, db, 1, 100, 10)
	s := open(t, t.Context(), db)
	ms := take(t, s, 550)
	ackAll(s, ms[:510])
	stopInTime(t, db)
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	insert(t, db, 1001, 100, 1)
	wantRange(t, append(ms, take(t, s, 550)...), 1, 1100)
}
