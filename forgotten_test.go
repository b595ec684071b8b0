package walchan

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/ledger"
)

// Of a message whose acknowledgement was forgotten the log says so, once.
func TestForgottenMessageIsLogged(t *testing.T) {
	var logged bytes.Buffer
	s := &owner{Stream: &Stream{cfg: &config{log: slog.New(slog.NewTextHandler(&logged, nil))}}}
	s.ledger = ledger.New(0, func() {})
	now := time.Now()
	look := func(want int) {
		t.Helper()
		now = s.watchdog(now)
		if got := strings.Count(logged.String(), "unacknowledged while later ones"); got != want {
			t.Fatalf("after %v it was logged %d times, want %d\n%s", now, got, want, &logged)
		}
	}
	s.ledger.Tick(now)
	var receipts []ledger.Receipt
	for range 3 {
		receipts = append(receipts, s.ledger.Next())
		s.ledger.Delivered()
	}
	s.ledger.Advance()
	for range 5 { // a consumer that is slow with all
		look(0)
	}
	receipts[2].Ack()
	for range 5 {
		look(1)
	}
	receipts[0].Ack()
	s.ledger.Advance()
	for range 5 { // now it is another
		look(2)
	}
	receipts[1].Ack()
	s.ledger.Advance()
	look(2)
}
