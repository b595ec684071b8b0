package walchan

import (
	"testing"
	"time"

	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/line"
	"github.com/walchan/walchan/internal/link"
)

// The parts of a message's way, each by itself. The whole way is measured by make bench.

func BenchmarkLedger(b *testing.B) {
	b.Run("ack", func(b *testing.B) { ledgerRound(b, ledger.Receipt.Ack) })
	b.Run("ackthrough", func(b *testing.B) { ledgerRound(b, ledger.Receipt.AckThrough) })
}

// ledgerRound is a message delivered, marked, acknowledged and taken in: in transactions of 10, and with the look at the
// acknowledgements that comes before each read, every 64.
func ledgerRound(b *testing.B, ack func(ledger.Receipt)) {
	l := ledger.New(0, func() {})
	b.ReportAllocs()
	for n := LSN(1); b.Loop(); n++ {
		r := l.Next()
		l.Delivered()
		if n%10 == 0 {
			l.Mark(n)
		}
		ack(r)
		if n%64 == 0 {
			l.Advance()
		}
	}
}

func BenchmarkLedgerBehind(b *testing.B) {
	// The oldest message stays unacknowledged: what is behind it must not make advance slower.
	l := ledger.New(0, func() {})
	l.Next()
	l.Delivered()
	for n := LSN(1); n < 1<<20; n++ {
		r := l.Next()
		l.Delivered()
		l.Mark(n)
		r.Ack()
	}
	for b.Loop() {
		l.Advance()
	}
}

func BenchmarkChannel(b *testing.B) {
	c := make(chan Message, 64)
	go func() {
		m := Message{Kind: Insert}
		for {
			select {
			case c <- m:
			case <-b.Context().Done():
				close(c)
				return
			}
		}
	}()
	for b.Loop() {
		<-c
	}
}

// BenchmarkDeliver is the way from the owner to the consumer, with its acknowledgement.
func BenchmarkDeliver(b *testing.B) {
	s := newOwner(newStream(b.Context(), newConfig(nil)))
	go func() {
		for m := range s.C() {
			s.Ack(m)
		}
	}()
	now := time.Now()
	s.conn.Store(quietConnection(now)) // nothing is due
	m := &Message{Kind: Insert, data: seal("row")}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.deliver(m); err != nil {
			b.Fatal(err)
		}
	}
	close(s.c)
}

// quietConnection is one of which nothing is due.
func quietConnection(now time.Time) *connection {
	c := &connection{Line: line.Line{Status: link.Status{Interval: time.Hour, At: now}}}
	c.Liveness.Heard(now)
	c.Shutdown.Begin(now.Add(time.Hour))
	return c
}
