package link

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan/wal"
)

// Outage is a time without progress: perhaps several connections, that failed at once and at the same position.
type Outage struct {
	Attempt int
	At      wal.LSN         // received, when it began
	delays  backoff.BackOff // nil: there is none
}

// lasting is how long a connection must live to be a success although it brought nothing new.
const lasting = time.Minute

// Lost notes the end of a connection. One that has brought something new, or has lasted, ended the outage before it.
func (o *Outage) Lost(received wal.LSN, lived time.Duration) {
	if received > o.At || lived > lasting {
		*o = Outage{At: received}
	}
}

// Next returns the delay before the next attempt; false if it was given up.
func (o *Outage) Next(retry func() backoff.BackOff) (time.Duration, bool) {
	if o.delays == nil {
		o.delays = retry()
		o.delays.Reset()
	}
	o.Attempt++
	delay := o.delays.NextBackOff()
	return delay, delay != backoff.Stop
}
