package walchan

import (
	"fmt"
	"slices"
	"sync"
)

// Every change of state in any test is looked up in the table. TestMain asks what was seen.
var seenTransitions struct {
	mu  sync.Mutex
	all map[[2]StreamState]int
}

func init() {
	seenTransitions.all = map[[2]StreamState]int{}
	watchTransitions = func(from, to StreamState) {
		seenTransitions.mu.Lock()
		defer seenTransitions.mu.Unlock()
		seenTransitions.all[[2]StreamState{from, to}]++
	}
}

// TransitionsBesideTheTable returns those that were seen and are not in the table.
func TransitionsBesideTheTable() (wrong []string) {
	seenTransitions.mu.Lock()
	defer seenTransitions.mu.Unlock()
	for t, n := range seenTransitions.all {
		if !slices.Contains(transitions[t[0]], t[1]) {
			wrong = append(wrong, fmt.Sprintf("%s to %s, %d times", t[0], t[1], n))
		}
	}
	return wrong
}

// TransitionsNotSeen returns those of the table that no test has made.
func TransitionsNotSeen() (missing []string) {
	seenTransitions.mu.Lock()
	defer seenTransitions.mu.Unlock()
	for from, all := range transitions {
		for _, to := range all {
			if seenTransitions.all[[2]StreamState{StreamState(from), to}] == 0 {
				missing = append(missing, fmt.Sprintf("%s to %s", StreamState(from), to))
			}
		}
	}
	return missing
}
