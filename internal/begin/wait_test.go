package begin

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan/walerr"
)

// Who holds the slot is said at first, when that changes, and at growing intervals.
func TestReportsOfAWaitForASlotBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		w := Wait{Log: slog.New(slog.NewTextHandler(&text, nil)), Waiting: func(int, error) {}}
		w.begin(time.Now())
		watch := func(pid string, minutes int) int {
			text.Reset()
			for end := time.Now().Add(time.Duration(minutes) * time.Minute); time.Now().Before(end); time.Sleep(SlotPoll) {
				w.report(holder{pid: pid}, walerr.SlotActive)
			}
			return strings.Count(text.String(), "pid="+pid+" ")
		}
		if n := watch("1", 20); n != 5 { // after 0, 1, 3, 8 and 18 minutes
			t.Errorf("%d lines in 20 minutes", n)
		}
		if n := watch("1", 24*60-20); n != 24 { // after 48 minutes, and then once an hour
			t.Errorf("%d lines in the rest of a day", n)
		}
		if n := watch("2", 2); n != 2 {
			t.Errorf("%d lines for another holder", n)
		}
	})
}
