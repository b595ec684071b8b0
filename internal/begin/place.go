package begin

import (
	"fmt"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// Place is where a physical stream begins or goes on: a position on a timeline.
type Place struct {
	At       wal.LSN
	Timeline int32
}

// Locate finds the place in the server's history: over the ends of timelines, but never back over a fork. round says where the WAL of
// a new timeline begins for the stream. standby says that the server is in recovery.
func (p Place) Locate(system session.System, history string, standby bool, round func(wal.LSN) wal.LSN) (Place, error) {
	diverged := func(format string, args ...any) (Place, error) {
		return p, OtherWAL(fmt.Sprintf(format, args...))
	}
	for p.Timeline != system.Timeline {
		fork, ok := resume.ForkOf(history, p.Timeline)
		switch {
		case !ok:
			return diverged("timeline %d is not in the history of the server's timeline %d", p.Timeline, system.Timeline)
		case p.At > fork:
			return diverged("the server has left timeline %d at %s, before %s, where the stream is to go on", p.Timeline, fork, p.At)
		case p.At < fork:
			return p, nil
		}
		p.Timeline, p.At = resume.TimelineAfter(p.Timeline, history, system.Timeline), round(fork)
	}
	switch what := fmt.Sprintf("the server's WAL ends at %s, before %s, where the stream is to go on", system.Flushed, p.At); {
	case p.At <= system.Flushed:
		return p, nil
	case standby:
		return p, slots.InRecovery(what, nil)
	default:
		return diverged("%s", what)
	}
}
