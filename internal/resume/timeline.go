package resume

import (
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
)

// A branch is a timeline that was left, and where: a line of a history file.
type branch struct {
	timeline int32
	end      LSN
}

// parseHistory reads a timeline's history file: a line for each timeline before it, with timeline, position and reason
// (src/backend/access/transam/timeline.c).
func parseHistory(content string) (branches []branch) {
	for line := range strings.Lines(content) {
		var b branch
		var end string
		if n, _ := fmt.Sscan(line, &b.timeline, &end); n != 2 {
			continue // a comment
		}
		var err error
		if b.end, err = pglogrepl.ParseLSN(end); err == nil {
			branches = append(branches, b)
		}
	}
	return branches
}

// ForkOf finds in a history file where a timeline was left.
func ForkOf(history string, timeline int32) (LSN, bool) {
	for _, b := range parseHistory(history) {
		if b.timeline == timeline {
			return b.end, true
		}
	}
	return 0, false
}

// TimelineAt returns the timeline that has the WAL at a position. history is that of the timeline current.
func TimelineAt(lsn LSN, history string, current int32) int32 {
	for _, b := range parseHistory(history) {
		if lsn < b.end {
			return b.timeline
		}
	}
	return current
}

// TimelineAfter returns the timeline that follows one on the way to current.
func TimelineAfter(timeline int32, history string, current int32) int32 {
	branches := parseHistory(history)
	for i, b := range branches[:max(len(branches)-1, 0)] {
		if b.timeline == timeline {
			return branches[i+1].timeline
		}
	}
	return current
}
