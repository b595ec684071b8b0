package walchan_test

import (
	"fmt"
	"testing"

	"github.com/walchan/walchan"
)

func TestBackPressureBoundsTheMessages(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 500, 2)
	s := subscribe(t, db, walchan.WithBuffer(7, 1<<30))
	awaitState(t, s, walchan.StateBlocked)
	if n := s.Stats().Buffered; n != 7 || cap(s.C()) != 7 {
		t.Errorf("%d messages are buffered, want 7", n)
	}
	wantRange(t, take(t, s, 1000), 1, 1000)
}

// However large a transaction is, of it no more is read than the buffer holds, one message in hand and a read buffer.
func TestBackPressureBoundsTheBytes(t *testing.T) {
	const rows, size, limit, readBuffer = 300, 100_000, 1_000_000, 1 << 20
	db := newSource(t)
	db.Exec(t, fmt.Sprintf("INSERT INTO t SELECT g, repeat('x', %d) FROM generate_series(1, %d) g", size, rows))
	s, p := tapped(t, db, walchan.WithBuffer(1000, limit))
	awaitState(t, s, walchan.StateBlocked)
	for taken := range 50 { // whatever is taken, as much comes after it
		await(t, s, "the buffer is full", func() bool { return s.Stats().Buffered == limit/size-1 })
		p.mu.Lock()
		read := p.bytes
		p.mu.Unlock()
		if most := (taken+1)*size + limit + size + readBuffer; read > most {
			t.Fatalf("%d bytes were read and %d messages taken, want %d at most", read, taken, most)
		}
		if m := next(t, s); id(m) != taken+1 {
			t.Fatalf("row %d, want %d", id(m), taken+1)
		}
	}
	wantRange(t, take(t, s, rows-50), 51, rows)
}

// One message may exceed the bytes.
func TestBackPressureLetsALargeMessagePass(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "INSERT INTO t VALUES (1, repeat('x', 3000000)), (2, repeat('y', 3000000)), (3, 'z')")
	s := subscribe(t, db, walchan.WithBuffer(10, 1))
	awaitState(t, s, walchan.StateBlocked)
	if n := s.Stats().Buffered; n != 1 {
		t.Errorf("%d messages are buffered, want 1", n)
	}
	wantRange(t, take(t, s, 3), 1, 3)
}

// A slow consumer stops the reading of the socket and nothing else.
func TestBackPressureDoesNotStopAcknowledging(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 1000)
	s, p := tapped(t, db, walchan.WithBuffer(10, 1<<20), walchan.WithTransactions())
	ms := take(t, s, 30)
	awaitState(t, s, walchan.StateBlocked)
	for i := 0; i < 30; i += 3 {
		ackAll(s, ms[i:i+3])
		p.waitFlush(ms[i+2].End())
	}
}

// WithMaxUnacked counts from the oldest unacknowledged message on; then delivery waits, and says so.
func TestMaxUnackedStopsDelivery(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 30)
	s := subscribe(t, db, walchan.WithMaxUnacked(10))
	ms := take(t, s, 10)
	awaitState(t, s, walchan.StateUnacked)
	ackAll(s, ms[1:]) // the oldest is forgotten
	flush(t, s)
	if n := len(s.C()); n != 0 || s.Stats().State != walchan.StateUnacked {
		t.Fatalf("%d more messages: %+v", n, s.Stats())
	}
	if st := s.Stats(); st.Unacked != 1 || st.Delivered != 10 {
		t.Errorf("%d of %d unacknowledged, want 1 of 10", st.Unacked, st.Delivered)
	}
	s.Ack(ms[0])
	ms = append(ms, take(t, s, 10)...)
	awaitState(t, s, walchan.StateUnacked)
	s.AckThrough(ms[14])
	ms = append(ms, take(t, s, 5)...)
	awaitState(t, s, walchan.StateUnacked)
	wantRange(t, ms, 1, 25)
	if n := len(s.C()); n != 0 {
		t.Errorf("%d more messages", n)
	}
}

// The smallest numbers work: message by message.
func TestBackPressureWithTheSmallestBuffer(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 10, 30)
	s := subscribe(t, db, walchan.WithBuffer(1, 1), walchan.WithMaxUnacked(1))
	for i := range 300 {
		m := next(t, s)
		if id(m) != i+1 || len(s.C()) > 0 {
			t.Fatalf("row %d, want %d, and %d more", id(m), i+1, len(s.C()))
		}
		s.Ack(m)
	}
}
