package walchan_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
)

// Cancelling the context is how to stop: nothing more is read, what is buffered still comes, C is closed, and the stream waits
// for the acknowledgement of all it has delivered.
func TestStopByContextWaitsForTheAcknowledgements(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 10, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db, walchan.WithDrainTimeout(time.Minute))
	ms := take(t, s, 15)
	ackAll(s, ms)
	await(t, s, "the buffer is full", func() bool { return s.Stats().Buffered == 64 })
	cancel()
	awaitState(t, s, walchan.StateDraining)
	ms = append(ms, rest(t, s)...)
	wantRange(t, ms, 1, 15+64)
	ackAll(s, ms[:78])
	if got := confirmed(t, s, db); got < ms[69].Tx.CommitLSN || got > ms[70].Tx.CommitLSN {
		t.Errorf("while draining %s is confirmed, want the transaction of rows 61 to 70", got)
	}
	if st := s.Stats(); st.State != walchan.StateDraining || s.Err() != nil {
		t.Errorf("it does not wait for the last one: %+v", st)
	}
	s.Ack(ms[78])
	awaitState(t, s, walchan.StateClosed)
	mustClose(t, s)
	if err := s.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
	if got := slotAt(t, db); got > ms[70].Tx.CommitLSN {
		t.Errorf("confirmed is %s, inside of the transaction that did not come whole", got)
	}
	wantIDs(t, take(t, subscribe(t, db), 2), 71, 72)
}

// The loop of the package comment, as a Ctrl-C finds it.
func TestStopOfTheLoopConfirmsAllThatWasHandled(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 50)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db)
	handled := 0
	for m := range s.C() {
		if handled++; handled == 10 {
			cancel()
		}
		s.Ack(m)
	}
	if err := s.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
	mustClose(t, s)
	insert(t, db, 51, 1, 1)
	wantIDs(t, []walchan.Message{next(t, subscribe(t, db))}, handled+1)
}

func TestStopWaitsNoLongerThanTheDrainTimeout(t *testing.T) {
	const timeout = 300 * time.Millisecond
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db, walchan.WithDrainTimeout(timeout))
	m := next(t, s)
	began := time.Now()
	cancel()
	awaitState(t, s, walchan.StateClosed)
	if d := time.Since(began); d < timeout || d > timeout+5*time.Second {
		t.Errorf("it has waited for %v, want %v", d, timeout)
	}
	s.Ack(m)
	if n := s.Stats().LateAcks; n != 1 {
		t.Errorf("%d late acknowledgements, want 1", n)
	}
	mustClose(t, s)
}

func TestStopWithoutDrainTimeoutDoesNotWait(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db, walchan.WithDrainTimeout(0))
	next(t, s)
	cancel()
	awaitState(t, s, walchan.StateClosed)
	if ms := rest(t, s); len(ms) > 0 {
		t.Errorf("another %d messages", len(ms))
	}
}

func TestStopByCloseDuringTheDrain(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db, walchan.WithDrainTimeout(time.Minute))
	ms := take(t, s, 2)
	cancel()
	awaitState(t, s, walchan.StateDraining)
	s.Ack(ms[0])
	mustClose(t, s)
	wantIDs(t, []walchan.Message{next(t, subscribe(t, db))}, 2)
}

// Close waits for no acknowledgement, and tells the server those that were made.
func TestCloseConfirmsWhatIsAcknowledgedAndWaitsForNothing(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 2, 200)
	s := subscribe(t, db, walchan.WithTransactions(), walchan.WithDrainTimeout(time.Minute))
	ms := take(t, s, 12)
	ackAll(s, ms[:9]) // two transactions, and the begin of the third
	mustClose(t, s)
	if got := slotAt(t, db); got != ms[7].End() {
		t.Errorf("confirmed is %s, want %s", got, ms[7].End())
	}
	if err := s.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
	rest(t, s) // C is closed
	wantIDs(t, []walchan.Message{next(t, subscribe(t, db))}, 5)
}

func TestCloseInTheMiddleOfALargeTransaction(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	insert(t, db, 2, 100_000, 1)
	s := subscribe(t, db)
	ackAll(s, take(t, s, 1000))
	mustClose(t, s)
	if got := s.Stats(); got.Delivered > 1100 {
		t.Errorf("%d messages were delivered", got.Delivered)
	}
	db.Wait(t, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	wantIDs(t, []walchan.Message{next(t, subscribe(t, db))}, 2)
}

func TestCloseTwiceAtTheSameTimeAndFromTheLoop(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 10)
	s := subscribe(t, db)
	for m := range s.C() {
		if id(m) == 5 {
			mustClose(t, s)
		}
		s.Ack(m)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { mustClose(t, s) })
	}
	all.Wait()

	s = subscribe(t, db)
	for range 8 {
		all.Go(func() { mustClose(t, s) })
	}
	all.Wait()
	rest(t, s)
}

// An acknowledgement after the end is counted, and has no effect.
func TestCloseMakesLaterAcksVoid(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 3)
	s := subscribe(t, db, walchan.WithTransactions())
	ms := take(t, s, 9)
	ackAll(s, ms[:3])
	mustClose(t, s)
	at := slotAt(t, db)
	s.Ack(ms[0]) // was acknowledged in time
	s.Ack(ms[3])
	s.Ack(ms[3])
	s.AckThrough(ms[8])
	ms[4].Receipt().Ack()
	if n := s.Stats().LateAcks; n != 3 {
		t.Errorf("%d late acknowledgements, want 3", n)
	}
	if got := slotAt(t, db); got != at || got != ms[2].End() {
		t.Errorf("confirmed is %s, want %s", got, ms[2].End())
	}
	mustClose(t, s)
}

// A slot is free when Close has returned: a stream that is closed can be followed by another at once.
func TestCloseReleasesTheSlot(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 500)
	for i := range 40 {
		s := subscribe(t, db)
		if i%2 == 0 {
			s.Ack(next(t, s))
		}
		mustClose(t, s)
	}
}

// Where the last position could not be told Close says so: it costs repeats.
func TestCloseWithoutConnectionSaysWhatIsUnconfirmed(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 2)
	begin := slotAt(t, db)
	p := &tap{t: t, hold: make(chan struct{})}
	s := open(t, t.Context(), db, p.option(), walchan.WithTransactions())
	ms := take(t, s, 6)
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	ackAll(s, ms)
	err := s.Close()
	var unconfirmed *walchan.UnconfirmedError
	if !errors.As(err, &unconfirmed) {
		t.Fatalf("Close: %v, want an UnconfirmedError", err)
	}
	if unconfirmed.Acknowledged < ms[5].End() || unconfirmed.Confirmed != begin {
		t.Errorf("Close: %+v, want %s acknowledged and %s confirmed", unconfirmed, ms[5].End(), begin)
	}
	if !strings.Contains(err.Error(), "will send the rest again") {
		t.Errorf("Close: %v", err)
	}
	if again := s.Close(); again != err {
		t.Errorf("the second Close: %v", again)
	}
	if s.Err() != nil {
		t.Errorf("Err is %v", s.Err())
	}
	wantIDs(t, take(t, subscribe(t, db), 2), 1, 2)
}

// If nothing was acknowledged that the server does not have, there is nothing to say.
func TestCloseWithoutConnectionAndWithoutAcks(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 2)
	p := &tap{t: t, hold: make(chan struct{})}
	s := open(t, t.Context(), db, p.option())
	take(t, s, 2)
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	mustClose(t, s)
}

// Close dials no more, and does not wait for an attempt that is under way.
func TestCloseEndsAnAttemptToReconnect(t *testing.T) {
	db := ownServer(t)
	dialing := make(chan struct{}, 1)
	first := true
	s := open(t, t.Context(), db, walchan.WithConnect(func(context.Context, *pgconn.Config) error {
		if !first {
			select {
			case dialing <- struct{}{}:
			default:
			}
		}
		first = false
		return nil
	}), walchan.WithReceiveTimeout(time.Second))
	terminate(t, db)
	if err := db.Pause(); err != nil { // the server takes connections, and does not answer
		t.Fatal(err)
	}
	<-dialing
	mustClose(t, s)
	if err := db.Resume(); err != nil {
		t.Fatal(err)
	}
}

// A server that does not answer holds Close up for no more than its 5 s.
func TestCloseOfAServerThatDoesNotAnswer(t *testing.T) {
	db := ownServer(t)
	insert(t, db, 1, 1, 1)
	s := open(t, t.Context(), db)
	before := s.Stats().Acknowledged
	s.Ack(next(t, s))
	await(t, s, "the commit is acknowledged", func() bool { return s.Stats().Acknowledged > before })
	if err := db.Pause(); err != nil {
		t.Fatal(err)
	}
	err := closeWithin(t, s, 8*time.Second)
	if unconfirmed := (*walchan.UnconfirmedError)(nil); !errors.As(err, &unconfirmed) {
		t.Errorf("Close: %v, want an UnconfirmedError", err)
	}
	if err := db.Resume(); err != nil {
		t.Fatal(err)
	}
}

// A stream that nobody closes and nobody receives from ends with its context.
func TestStopLeavesNothingBehind(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 10, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := walchan.Subscribe(ctx, db.DSN(), append(usual(t, db), walchan.WithDrainTimeout(0))...)
	if err != nil {
		t.Fatal(err)
	}
	await(t, s, "the buffer is full", func() bool { return s.Stats().Buffered == 64 })
	cancel()
	awaitState(t, s, walchan.StateClosed)
	db.Wait(t, "SELECT count(*) = 0 FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = '"+db.Name+"'")
}
