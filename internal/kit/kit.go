// Package kit lets walchantest and pipeline ask what a stream tells nobody else.
package kit

// Unacknowledged returns the numbers, from 0 in the order of delivery, of the messages that a *walchan.Stream has delivered
// and that are not acknowledged. Package walchan sets it.
var Unacknowledged func(stream any) []int

// Source returns the walchan.Source of a walchan.Message; false if it is not known. Package walchan sets it.
var Source func(message any) (source any, ok bool)

// Began returns the walchan.Checkpoint that the consumer of a *walchan.Stream gave at Subscribe, and whether SubscribeAnew gave up
// another one. Package walchan sets it.
var Began func(stream any) (checkpoint any, anew bool)
