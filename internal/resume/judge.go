package resume

import "fmt"

// Server is what is known of a server before a stream from it is continued.
type Server struct {
	Timeline int32
	Flushed  LSN   // the end of its WAL
	Recovery bool  // it is a standby, or recovers from a crash
	Started  int64 // as Origin.Started
}

// Refusal says why a server cannot continue.
type Refusal struct {
	Passing bool // a standby may still receive what it lacks
	Text    string
}

func (r *Refusal) Error() string { return r.Text }

func diverged(format string, args ...any) *Refusal {
	return &Refusal{Text: fmt.Sprintf(format, args...)}
}

// Check compares a server with what was delivered, as far as positions and timelines go. They can refuse a server, and never
// prove that it has the same history: two standbys that were promoted have the same numbers.
//
// bound is the highest position that the slot may have confirmed by what is known of the consumer. The result is that by what is
// known of the server. history returns the content of the history file of the server's timeline.
func Check(o Origin, p Point, bound LSN, s Server, history func() (string, error)) (LSN, error) {
	if s.Flushed < max(p.Needed(), p.Through, bound) && s.Recovery {
		return 0, &Refusal{Passing: true, Text: fmt.Sprintf("it has come to %s, and %s was delivered", s.Flushed, max(p.Needed(), p.Through, bound))}
	}
	fork := s.Flushed
	if o.Timeline != 0 && o.Timeline != s.Timeline {
		var err error
		if fork, err = forkFrom(o.Timeline, s.Timeline, history); err != nil {
			return 0, err
		}
		if fork < p.Needed() {
			return 0, diverged("the server's timeline %d has forked at %s, before the end of what was delivered at %s", s.Timeline, fork, p.last())
		}
	}
	if s.Flushed < p.Needed() {
		return 0, diverged("the server's WAL ends at %s, before the end of what was delivered at %s", s.Flushed, p.last())
	}
	return min(bound, s.Flushed, fork), nil // beyond it there was nothing of ours
}

// forkFrom returns where the history of a server's timeline leaves another one.
func forkFrom(timeline, server int32, history func() (string, error)) (LSN, error) {
	if server < timeline {
		return 0, diverged("the server is on timeline %d, behind %d", server, timeline)
	}
	content, err := history()
	if err != nil {
		return 0, err
	}
	fork, ok := ForkOf(content, timeline)
	if !ok {
		return 0, diverged("the server's timeline %d does not descend from timeline %d", server, timeline)
	}
	return fork, nil
}

func (p Point) last() LSN {
	return max(p.Commit, p.Message)
}

// Step is what is to be done before anything is delivered from a slot that is held.
type Step uint8

// The steps.
const (
	Deliver Step = iota // the history is the same
	Expect              // the last transaction comes by, or it is another history
	Prove               // the last transaction does not come: ask for it
)

// Next says what follows. from is where the server begins to send. same says that the server has not been restarted since the
// point was delivered.
func Next(p Point, from LSN, same bool) Step {
	switch {
	case p.IsBare():
		return Deliver
	case p.HasTransaction() && from <= p.Commit:
		return Expect
	case same:
		return Deliver
	}
	return Prove
}
