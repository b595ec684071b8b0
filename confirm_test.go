package walchan_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// Transactions that are in the WAL when the stream begins are sent without a keepalive between them: then what is confirmed
// is exactly the end of a transaction.

func TestConfirmedIsTheEndOfTheLastTransactionBeforeTheOldestUnacknowledgedMessage(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 2, 4) // transactions of 1 2, 3 4, 5 6, 7 8
	begin := slotAt(t, db)
	s := subscribe(t, db, walchan.WithTransactions())
	ms := take(t, s, 16)
	end := func(tx int) walchan.LSN { return ms[4*tx+3].End() }
	for _, step := range []struct {
		ack  []int
		want walchan.LSN
	}{
		{nil, begin},
		{[]int{4, 5, 6, 7}, begin},         // the second transaction: the first is not
		{[]int{0, 1, 3}, begin},            // all but a row of the first
		{[]int{2}, end(1)},                 // that row: two at once
		{[]int{12, 13, 15, 8, 11}, end(1)}, // some of the others
		{[]int{10, 9}, end(2)},             // the third, backwards
		{[]int{9, 10, 11}, end(2)},         // again: nothing
	} {
		for _, i := range step.ack {
			s.Ack(ms[i])
		}
		if got := confirmed(t, s, db); got != step.want {
			t.Fatalf("with %d acknowledged %s is confirmed, want %s", step.ack, got, step.want)
		}
	}
	s.Ack(ms[14])
	if got := confirmed(t, s, db); got < end(3) { // there may be a keepalive behind it
		t.Errorf("with all acknowledged %s is confirmed, want %s at least", got, end(3))
	}
}

// Were it the commit's LSN, which lies before its end, the server would send the transaction again.
func TestConfirmedTransactionIsNotSentAgain(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 2, 5)
	for first := 1; first < 10; first += 2 {
		s := subscribe(t, db)
		ms := take(t, s, 2)
		wantIDs(t, ms, first, first+1)
		ackAll(s, ms)
		mustClose(t, s)
	}
}

func TestConfirmedNothingWithoutAcknowledgement(t *testing.T) {
	db := newSource(t)
	begin := slotAt(t, db)
	insert(t, db, 1, 1, 3)
	s, p := tapped(t, db)
	take(t, s, 3)
	db.Exec(t, "INSERT INTO quiet VALUES (1)")
	p.waitKeepalive(walEnd(t, db))
	if got := confirmed(t, s, db); got != begin {
		t.Errorf("confirmed is %s, and was %s before anything was acknowledged", got, begin)
	}
}

// An idle slot in a busy database follows: a keepalive's position is confirmed.
func TestConfirmedFollowsWhereNothingIsPublished(t *testing.T) {
	const interval = 2 * time.Second
	db := newSource(t)
	subscribe(t, db, walchan.WithStatusInterval(interval))
	for range 3 {
		db.Exec(t, "INSERT INTO quiet SELECT generate_series(1, 1000)")
		end, began := walEnd(t, db), time.Now()
		waitSlotAt(t, db, end)
		if d := time.Since(began); d > 2*interval {
			t.Errorf("the slot has followed after %v, want within %v", d, 2*interval)
		}
	}
}

// A keepalive's position is confirmed when everything that was received before it is acknowledged, and remembered until then.
func TestConfirmedKeepaliveWaitsForWhatWasReceivedBeforeIt(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	s, p := tapped(t, db)
	first := next(t, s)
	db.Exec(t, "INSERT INTO quiet VALUES (1)")
	between := walEnd(t, db)
	p.waitKeepalive(between)
	insert(t, db, 2, 1, 1)
	second := next(t, s)

	if got := confirmed(t, s, db); got >= first.Tx.CommitLSN {
		t.Errorf("confirmed is %s, and the transaction of commit %s is not acknowledged", got, first.Tx.CommitLSN)
	}
	s.Ack(first) // no other keepalive can come for it: it is remembered
	p.waitFlush(between)
	if got := confirmed(t, s, db); got > second.Tx.CommitLSN {
		t.Errorf("confirmed is %s, and the transaction of commit %s is not acknowledged", got, second.Tx.CommitLSN)
	}
	s.Ack(second)
	waitSlotAt(t, db, walEnd(t, db))
}

func TestConfirmedLogicalMessageOutsideOfTransactions(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'a', '1')", "INSERT INTO t VALUES (1)", "SELECT pg_logical_emit_message(false, 'a', '2')")
	s := subscribe(t, db)
	ms := take(t, s, 3)
	s.Ack(ms[0])
	if got := confirmed(t, s, db); got != ms[0].LSN {
		t.Errorf("confirmed is %s, want %s", got, ms[0].LSN)
	}
	s.Ack(ms[1])
	mustClose(t, s)
	wantShown(t, subscribe(t, db), "message a: 2 transactional false")
}

// Whatever is done, and however often the connection breaks, no status says more than was received, or less than one before
// it: the tap looks at each. Here there are very many.
func TestConfirmedIsNeverAboveWhatWasReceivedAndNeverGoesBack(t *testing.T) {
	r := pgtest.Seeded(t)
	db := newSource(t)
	p := &tap{t: t, cut: func(dial int) int { return 1 + dial*7919%40_000 }}
	s := open(t, t.Context(), db, p.option())
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := range 60 {
			insert(t, db, 1+n*20, 1+n%20, 1)
			db.Exec(t, "INSERT INTO quiet VALUES (1)", "SELECT pg_logical_emit_message(false, 'end', '')")
		}
	})
	var held []walchan.Message
	for ends := 0; ends < 60; {
		m := next(t, s)
		ends += len(m.Prefix()) / 3
		if held = append(held, m); len(held) > 20 {
			ackOneOf(s, &held, r)
		}
	}
	writer.Wait()
	for len(held) > 0 {
		ackOneOf(s, &held, r)
	}
	await(t, s, "all is confirmed", func() bool { return s.Stats().Confirmed >= s.Stats().Received })
	if n := s.Stats().Reconnects; n < 2 {
		t.Errorf("%d reconnects: the test is none", n)
	}
}

func ackOneOf(s *walchan.Stream, held *[]walchan.Message, r *rand.Rand) {
	h := *held
	i := r.IntN(len(h))
	s.Ack(h[i])
	h[i] = h[len(h)-1]
	*held = h[:len(h)-1]
}

func TestAckInAnyOrderFromAnyGoroutine(t *testing.T) {
	const rows = 3000
	r := pgtest.Seeded(t)
	db := newSource(t)
	insert(t, db, 1, 10, rows/10)
	s, p := tapped(t, db)
	ms := take(t, s, rows)
	last := ms[rows-1]
	end := walEnd(t, db)
	r.Shuffle(rows, func(i, j int) { ms[i], ms[j] = ms[j], ms[i] })
	var ackers sync.WaitGroup
	for n := range 8 {
		ackers.Go(func() {
			for _, m := range ms[n*rows/8 : (n+1)*rows/8] {
				s.Ack(m)
			}
		})
	}
	ackers.Wait()
	p.waitFlush(last.Tx.CommitLSN + 1)
	waitSlotAt(t, db, end)
	if st := s.Stats(); st.Unacked != 0 || st.Delivered != rows {
		t.Errorf("%d of %d unacknowledged", st.Unacked, st.Delivered)
	}
}

// Acknowledging the one message twice does not acknowledge another.
func TestAckIsIdempotent(t *testing.T) {
	db := newSource(t)
	begin := slotAt(t, db)
	insert(t, db, 1, 2, 1)
	s := subscribe(t, db)
	ms := take(t, s, 2)
	for range 3 {
		s.Ack(ms[0])
		ms[0].Receipt().Ack()
	}
	if got := confirmed(t, s, db); got != begin {
		t.Errorf("confirmed is %s, and the second message is not acknowledged", got)
	}
	if st := s.Stats(); st.Unacked != 1 {
		t.Errorf("%d unacknowledged, want 1", st.Unacked)
	}
}

// Ack does not wait for the connection, nor for the consumer.
func TestAckDoesNotBlock(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 100)
	p := &tap{t: t, hold: make(chan struct{})}
	s := open(t, t.Context(), db, p.option())
	ms := take(t, s, 100)
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	acked := make(chan struct{})
	go func() {
		defer close(acked)
		ackAll(s, ms)
	}()
	select {
	case <-acked:
	case <-time.After(patience):
		t.Error("Ack blocks")
	}
}

func TestAckThroughTakesAllThatWereDeliveredBefore(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 2, 4)
	s := subscribe(t, db, walchan.WithTransactions())
	ms := take(t, s, 16)
	s.AckThrough(ms[9]) // inside of the third transaction
	if got := confirmed(t, s, db); got != ms[7].End() {
		t.Errorf("confirmed is %s, want %s", got, ms[7].End())
	}
	s.AckThrough(ms[3]) // no step back
	s.AckThrough(ms[11])
	if got := confirmed(t, s, db); got != ms[11].End() {
		t.Errorf("confirmed is %s, want %s", got, ms[11].End())
	}
	ms[15].Receipt().AckThrough()
	if got := confirmed(t, s, db); got < ms[15].End() {
		t.Errorf("confirmed is %s, want %s", got, ms[15].End())
	}
}

// A message is acknowledged to the stream it came from, and what has no message is acknowledged to none.
func TestAckGoesToTheStreamOfTheMessage(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	s := subscribe(t, db)
	other := subscribeDecoding(t, db)
	other.Ack(next(t, s))
	s.Ack(walchan.Message{})
	s.AckThrough(walchan.Message{})
	walchan.Receipt{}.Ack()
	if st := s.Stats(); st.Unacked != 0 || st.LateAcks != 0 {
		t.Errorf("%d unacknowledged, %d late", st.Unacked, st.LateAcks)
	}
	waitSlotAt(t, db, walEnd(t, db))
}

// The Receipt is all that is needed, and holds nothing else.
func TestAckByReceipt(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 5, 2)
	s := subscribe(t, db)
	var receipts []walchan.Receipt
	for range 10 {
		receipts = append(receipts, next(t, s).Receipt())
	}
	for _, r := range receipts {
		r.Ack()
	}
	waitSlotAt(t, db, walEnd(t, db))
}

// Flush has returned: the status is written.
func TestFlushReturnsWhenTheStatusIsWritten(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 200)
	s, p := tapped(t, db, walchan.WithTransactions())
	for range 200 {
		ms := take(t, s, 3)
		ackAll(s, ms)
		flush(t, s)
		if got := p.flush(); got < ms[2].End() {
			t.Fatalf("the last status says %s, want %s", got, ms[2].End())
		}
	}
}

func TestFlushFromManyGoroutinesWhileTheConsumerBlocks(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 500)
	s, p := tapped(t, db, walchan.WithTransactions())
	ms := take(t, s, 30)
	awaitState(t, s, walchan.StateBlocked)
	ackAll(s, ms)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			flush(t, s)
			if got := p.flush(); got < ms[29].End() {
				t.Errorf("the last status says %s, want %s", got, ms[29].End())
			}
		})
	}
	all.Wait()
}

// Without a connection Flush waits, for its context or the stream's end.
func TestFlushWithoutConnection(t *testing.T) {
	db := newSource(t)
	reconnect := make(chan struct{})
	p := &tap{t: t, hold: reconnect}
	s := open(t, t.Context(), db, p.option())
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Flush(ctx); err != context.DeadlineExceeded {
		t.Errorf("Flush: %v, want the context's error", err)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.Flush(context.Background()) }()
	close(reconnect)
	if err := <-flushed; err != nil {
		t.Errorf("Flush over a reconnect: %v", err)
	}
	mustClose(t, s)
	if err := s.Flush(t.Context()); err != walchan.ErrClosed {
		t.Errorf("Flush after Close: %v, want ErrClosed", err)
	}
}

// What was acknowledged while there was no connection is told as soon as there is one, not with the next status interval.
func TestConfirmedWithoutDelayAfterAReconnect(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1)
	reconnect := make(chan struct{})
	p := &tap{t: t, hold: reconnect}
	s := open(t, t.Context(), db, p.option())
	m := next(t, s)
	terminate(t, db)
	awaitState(t, s, walchan.StateRetrying)
	s.Ack(m)
	began := time.Now()
	close(reconnect)
	at := p.waitFlush(m.Tx.CommitLSN + 1)
	if d := at.Sub(began); d > 5*time.Second {
		t.Errorf("told after %v; the status interval is 10 s", d)
	}
}
