package walchan

import "time"

// sizes knows how many bytes lie in the channel: those of as many of the last messages as the channel holds.
type sizes struct {
	limit  int
	queue  []int // of the last messages
	next   int   // place in queue of the next one
	held   int   // how many of queue count
	total  int   // their sum
	paused time.Duration
}

// fits says whether size more bytes fit behind the n messages that are still in the channel.
func (z *sizes) fits(n, size int) bool {
	for ; z.held > n; z.held-- {
		first := z.next - z.held
		if first < 0 {
			first += len(z.queue)
		}
		z.total -= z.queue[first]
		z.paused = 0
	}
	return z.held == 0 || z.total+size <= z.limit
}

func (z *sizes) add(size int) {
	z.queue[z.next] = size
	if z.next++; z.next == len(z.queue) {
		z.next = 0
	}
	z.held++
	z.total += size
}

// pause returns how long to wait before looking again: longer each time, for a consumer that takes nothing.
func (z *sizes) pause() time.Duration {
	z.paused = min(max(2*z.paused, 100*time.Microsecond), 10*time.Millisecond)
	return z.paused
}
