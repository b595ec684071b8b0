// Package pgtime converts to and from PostgreSQL's clock.
package pgtime

import "time"

// Epoch is where the clock starts, in microseconds since 1970 (protocol-replication: "microseconds since midnight on 2000-01-01").
const Epoch = 946_684_800_000_000

// Time returns the time of microseconds on the clock; the zero time of 0.
func Time(µs int64) time.Time {
	if µs == 0 {
		return time.Time{}
	}
	return time.UnixMicro(µs + Epoch).UTC()
}

// Micros is the reverse of Time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro() - Epoch
}
