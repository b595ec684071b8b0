// Package kit lets walchantest ask what a stream tells nobody else.
package kit

// Unacknowledged returns the numbers, from 0 in the order of delivery, of the messages that a *walchan.Stream has delivered
// and that are not acknowledged. Package walchan sets it.
var Unacknowledged func(stream any) []int
