package walchan

import "time"

// StreamState says what a stream is doing. Its text is the name of the constant in lower case: "streaming".
type StreamState uint8

// The states of a stream.
const (
	StateConnecting StreamState = iota // for the first time
	StateStreaming                     // messages are coming
	StateIdle                          // connected, and for a second nothing but signs of life has come
	StateBlocked                       // the consumer has not taken a message for a second
	StateUnacked                       // WithMaxUnacked messages are outstanding, for a second
	StateRetrying                      // disconnected: Stats.Err says why, Stats.Attempt how often it was tried
	StateDraining                      // stopped: waiting for acknowledgements
	StateClosed                        // ended: Stats.Err is the permanent error, nil after a stop
	StateSnapshot                      // the rows of a snapshot are coming, or waiting for their acknowledgement

	states = iota // how many there are; a new one goes before it, because their numbers are public
)

// stateNames are the states as String says them.
var stateNames = [states]string{
	StateConnecting: "connecting",
	StateStreaming:  "streaming",
	StateIdle:       "idle",
	StateBlocked:    "blocked",
	StateUnacked:    "unacked",
	StateRetrying:   "retrying",
	StateDraining:   "draining",
	StateClosed:     "closed",
	StateSnapshot:   "snapshot",
}

// transitions are the states that may follow each state. Tests fail on any other (see watchTransitions).
var transitions = [states][]StreamState{
	StateConnecting: {StateStreaming, StateSnapshot, StateRetrying},
	StateStreaming:  {StateIdle, StateBlocked, StateUnacked, StateRetrying, StateDraining, StateClosed},
	StateIdle:       {StateStreaming, StateBlocked, StateUnacked, StateRetrying, StateDraining, StateClosed},
	StateBlocked:    {StateStreaming, StateSnapshot, StateRetrying, StateDraining},
	StateUnacked:    {StateStreaming, StateSnapshot, StateBlocked, StateRetrying, StateDraining},
	StateRetrying:   {StateStreaming, StateSnapshot, StateClosed},
	StateDraining:   {StateClosed},
	StateClosed:     {},
	StateSnapshot:   {StateStreaming, StateBlocked, StateUnacked, StateRetrying, StateDraining, StateClosed},
}

// hasAttempts says whether a state is one attempt after the other: the hook hears of each, and Stats shows its number and its delay.
func (s StreamState) hasAttempts() bool { return s == StateRetrying }

// watchTransitions hears of each change of state. It is nil outside of tests.
var watchTransitions func(from, to StreamState)

// setState publishes what the owner is doing, and tells the hook.
func (o *owner) setState(state StreamState, err error) {
	if state == StateStreaming {
		state = o.flowing
	}
	if o.state == state && !state.hasAttempts() {
		return
	}
	if watchTransitions != nil && o.state != state {
		watchTransitions(o.state, state)
	}
	o.state = state
	g := &o.gauge
	g.mu.Lock()
	g.err = err
	if g.state != state {
		g.state, g.since = state, time.Now()
	}
	g.mu.Unlock()
	o.cfg.onState(o.Stats())
}
