package walchan_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// busyLife is a bit of everything, in transactions of several sizes.
func busyLife(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Exec(t, "ALTER TABLE t REPLICA IDENTITY FULL",
		"INSERT INTO t VALUES (1, 'a')",
		"BEGIN; INSERT INTO t SELECT g, repeat('x', g) FROM generate_series(10, 20) g; UPDATE t SET v = 'y' WHERE id > 15; DELETE FROM t WHERE id = 12; COMMIT",
		"SELECT pg_logical_emit_message(false, 'p', 'one')",
		"SELECT pg_logical_emit_message(false, 'p', 'two')",
		"INSERT INTO t VALUES (2, 'b')",
		"INSERT INTO quiet VALUES (1)",
		"BEGIN; INSERT INTO t VALUES (3, 'c'); SELECT pg_logical_emit_message(true, 'p', 'three'); SELECT pg_logical_emit_message(false, 'p', 'four'); COMMIT",
		"TRUNCATE t",
		"INSERT INTO t SELECT g, 'z' FROM generate_series(30, 40) g",
		"ALTER TABLE t ADD w int DEFAULT 1",
		"INSERT INTO t VALUES (4, 'd')", "INSERT INTO t VALUES (5, 'e')")
}

// positions shows messages with their keys, each of which there may be but one of.
func positions(ms []walchan.Message) (shown []string) {
	for _, m := range ms {
		p, _ := m.Position()
		shown = append(shown, fmt.Sprintf("%s %v: %s", p, m.Tx != nil && m.Tx.Redelivered, show(m)))
	}
	return shown
}

func wantSame(t *testing.T, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("message %d is\n%s, want\n%s", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d messages, want %d", len(got), len(want))
	}
}

// Wherever the connection breaks, also in the middle of a message, each message comes once, and in order. Each connection
// lasts a little longer than the one before it, so that every place is cut.
func TestOnceWhereverTheConnectionBreaks(t *testing.T) {
	const step = 61 // bytes
	for name, acks := range map[string]int{"no acknowledgement": 0, "some": 50, "all": 100} {
		t.Run(name, func(t *testing.T) {
			r := pgtest.Seeded(t)
			db := newSource(t)
			db.Exec(t, "SELECT pg_copy_logical_replication_slot('"+db.Name+"', '"+db.Name+"_u')")
			busyLife(t, db)
			want := positions(undisturbed(t, db))
			var enough atomic.Bool
			p := &tap{t: t, cut: func(dial int) int { return dial * step * btoi(!enough.Load()) }}
			s := open(t, t.Context(), db, p.option(), walchan.WithTransactions(), walchan.WithBuffer(1+r.IntN(10), 1<<20))
			var got []walchan.Message
			for range want {
				m := next(t, s)
				if got = append(got, m); r.IntN(100) < acks {
					s.Ack(m)
				}
			}
			wantSame(t, positions(got), want)
			if n := s.Stats().Reconnects; n < 5 {
				t.Errorf("%d reconnects: the test is none", n)
			}
			ackAll(s, got)
			enough.Store(true)
			waitSlotAt(t, db, walEnd(t, db))
		})
	}
}

// undisturbed returns what a stream receives whose connection lasts: from another slot, that began at the same place.
func undisturbed(t *testing.T, db pgtest.DB) []walchan.Message {
	t.Helper()
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'end', '')")
	s := open(t, t.Context(), db, walchan.WithSlot(db.Name+"_u"), walchan.WithTransactions())
	var ms []walchan.Message
	for {
		m := next(t, s)
		if ms = append(ms, m); m.Prefix() == "end" {
			mustClose(t, s)
			return ms
		}
	}
}

// The same for a plugin of which nothing is known but where its transactions end.
func TestOnceWhereverTheConnectionBreaksWithTestDecoding(t *testing.T) {
	const step = 97
	r := pgtest.Seeded(t)
	db := newSource(t)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Name+"_td', 'test_decoding')",
		"SELECT pg_copy_logical_replication_slot('"+db.Name+"_td', '"+db.Name+"_tdu')")
	busyLife(t, db)
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'end', '')")
	untilEnd := func(s *walchan.Stream, ack bool) (ms []walchan.Message) {
		for {
			m := next(t, s)
			if ack && r.IntN(2) == 0 {
				s.Ack(m)
			}
			if ms = append(ms, m); len(m.Payload()) > 40 && m.Payload()[:39] == "message: transactional: 0 prefix: end, " {
				return ms
			}
		}
	}
	want := positions(untilEnd(subscribeDecoding(t, db, walchan.WithSlot(db.Name+"_tdu")), false))
	p := &tap{t: t, raw: true, cut: func(dial int) int { return dial * step }}
	s := subscribeDecoding(t, db, p.option())
	wantSame(t, positions(untilEnd(s, true)), want)
	if n := s.Stats().Reconnects; n < 5 {
		t.Errorf("%d reconnects: the test is none", n)
	}
}

// The server ends the connection while a large transaction is under way; the consumer may be waiting, or not.
func TestOnceWhenTheWalsenderIsTerminated(t *testing.T) {
	const rows = 20_000
	for name, before := range map[string]func(t *testing.T, s *walchan.Stream) []walchan.Message{
		"between transactions":    func(t *testing.T, s *walchan.Stream) []walchan.Message { return take(t, s, 10) },
		"inside of a transaction": func(t *testing.T, s *walchan.Stream) []walchan.Message { return take(t, s, rows/2) },
		"while the consumer is blocked": func(t *testing.T, s *walchan.Stream) []walchan.Message {
			awaitState(t, s, walchan.StateBlocked)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := newSource(t)
			insert(t, db, 1, 1, 10)
			insert(t, db, 11, rows, 1)
			s := subscribe(t, db)
			ms := before(t, s)
			ackAll(s, ms[:len(ms)/2])
			terminate(t, db)
			for len(ms) < rows+10 {
				ms = append(ms, next(t, s))
			}
			wantRange(t, ms, 1, rows+10)
			insert(t, db, rows+11, 1, 1) // and goes on
			wantIDs(t, []walchan.Message{next(t, s)}, rows+11)
			if n := s.Stats().Reconnects; n != 1 {
				t.Errorf("%d reconnects, want 1", n)
			}
		})
	}
}

// The server is restarted, or dies, and what it knows of the slot may be older than what it was told.
func TestOnceWhenTheServerIsRestarted(t *testing.T) {
	for name, restart := range map[string]func(t *testing.T, db pgtest.DB) error{
		"fast":      func(t *testing.T, db pgtest.DB) error { return db.Restart(t.Context(), pgtest.Fast) },
		"immediate": func(t *testing.T, db pgtest.DB) error { return db.Restart(t.Context(), pgtest.Immediate) },
		"kill -9": func(t *testing.T, db pgtest.DB) error {
			if err := db.Kill(); err != nil {
				return err
			}
			return db.Start(t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			const rows, rounds = 3000, 2
			db := ownServer(t)
			s := subscribe(t, db)
			var ms []walchan.Message
			for round := range rounds {
				insert(t, db, 1+round*rows, rows/100, 50)
				insert(t, db, 1+round*rows+rows/2, rows/2, 1)
				ms = append(ms, take(t, s, rows/4)...)
				ackAll(s, ms[:len(ms)-10])
				if err := restart(t, db); err != nil {
					t.Fatal(err)
				}
			}
			ms = append(ms, take(t, s, rounds*rows-len(ms))...)
			wantRange(t, ms, 1, rounds*rows)
			ackAll(s, ms)
			waitSlotAt(t, db, ms[len(ms)-1].Tx.CommitLSN+1)
		})
	}
}

// A stream that is idle when the server dies goes on, too, and does not take the slot's old position for an error.
func TestOnceWhenAnIdleServerDies(t *testing.T) {
	db := ownServer(t)
	s := subscribe(t, db)
	for id := range 5 {
		insert(t, db, id, 1, 1)
		s.Ack(next(t, s))
		db.Exec(t, "INSERT INTO quiet VALUES (1)")
		waitSlotAt(t, db, walEnd(t, db))
		if err := db.Kill(); err != nil {
			t.Fatal(err)
		}
		awaitState(t, s, walchan.StateRetrying)
		if err := db.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	insert(t, db, 5, 1, 1)
	wantIDs(t, []walchan.Message{next(t, s)}, 5)
	select {
	case m := <-s.C():
		t.Errorf("another message, %v", m)
	case <-time.After(100 * time.Millisecond):
	}
}
