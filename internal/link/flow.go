package link

import "time"

// Settle is how long a state must last before it is one: blocked, idle.
const Settle = time.Second

const (
	late  = 10 * time.Millisecond // behind the server's commits, changes may be later still by a quarter of that,
	later = 10 * time.Millisecond // but not more than this
)

// Flow says how the data comes.
type Flow struct {
	Busy   bool          // data came since Idle looked
	DataAt time.Time     // when it last had come
	Lag    time.Duration // age of the last change when the server sent it, since its commit
}

// Idle says whether nothing but keepalives has come for a while. Then nothing is late.
func (f *Flow) Idle(now time.Time) bool {
	if f.Busy {
		f.Busy, f.DataAt = false, now
	}
	if now.Sub(f.DataAt) < Settle {
		return false
	}
	f.Lag = 0
	return true
}

// Gathers says whether small messages may pile up before they are read.
func (f *Flow) Gathers() bool { return f.Lag > late }

// Patience is for how long they may.
func (f *Flow) Patience() time.Duration { return min(f.Lag/4, later) }
