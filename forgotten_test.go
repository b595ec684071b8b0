package walchan

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Of a message whose acknowledgement was forgotten the log says so, once.
func TestForgottenMessageIsLogged(t *testing.T) {
	var logged bytes.Buffer
	s := &Stream{cfg: &config{log: slog.New(slog.NewTextHandler(&logged, nil))}}
	s.ledger = newLedger(0, func() {})
	now := time.Now()
	look := func(want int) {
		t.Helper()
		now = s.watchdog(now)
		if got := strings.Count(logged.String(), "unacknowledged while later ones"); got != want {
			t.Fatalf("after %v it was logged %d times, want %d\n%s", now, got, want, &logged)
		}
	}
	s.ledger.tick(now)
	var receipts []Receipt
	for range 3 {
		receipts = append(receipts, s.ledger.next())
		s.ledger.delivered()
	}
	s.ledger.advance()
	for range 5 { // a consumer that is slow with all
		look(0)
	}
	receipts[2].Ack()
	for range 5 {
		look(1)
	}
	receipts[0].Ack()
	s.ledger.advance()
	for range 5 { // now it is another
		look(2)
	}
	receipts[1].Ack()
	s.ledger.advance()
	look(2)
}
