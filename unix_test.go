package walchan_test

import (
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// Over a Unix socket the stream waits by other means than over TCP (unixConn of internal/session).
func overUnix(t *testing.T, db pgtest.DB, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), db.SocketDSN(), append(usual(t, db), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What is late, and piles up, comes as what is new does, over reconnects and past a slow consumer.
func TestUnixSocket(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 5000, 2)
	insert(t, db, 10_001, 1, 1000)
	s := overUnix(t, db, walchan.WithBuffer(10, 1<<20))
	wantRange(t, take(t, s, 500), 1, 500)
	time.Sleep(100 * time.Millisecond) // the server is blocked, too
	terminate(t, db)
	ms := take(t, s, 10_500)
	wantRange(t, ms, 501, 11_000)
	awaitState(t, s, walchan.StateIdle)
	insert(t, db, 11_001, 1, 10)
	ms = append(ms, take(t, s, 10)...)
	wantRange(t, ms[10_500:], 11_001, 11_010)
	ackAll(s, ms[:10_505]) // not the first 500
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantIDs(t, []walchan.Message{next(t, overUnix(t, db))}, 1)
}

func TestUnixSocketOfSilentServer(t *testing.T) {
	db := ownServer(t)
	insert(t, db, 1, 1, 1)
	s := overUnix(t, db, walchan.WithReceiveTimeout(time.Second))
	s.Ack(next(t, s))
	if err := db.Pause(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, s, walchan.StateRetrying)
	if err := db.Resume(); err != nil {
		t.Fatal(err)
	}
	insert(t, db, 2, 1, 1)
	wantIDs(t, []walchan.Message{next(t, s)}, 2)
}
