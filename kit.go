package walchan

import (
	"github.com/walchan/walchan/internal/kit"
	"github.com/walchan/walchan/internal/resume"
)

func init() {
	kit.Unacknowledged = func(stream any) []int { return stream.(*Stream).ledger.unacknowledged() }
	kit.Source = func(message any) (any, bool) {
		m := message.(Message)
		o, ok := m.ext.(*resume.Source)
		if !ok {
			o, _ = m.place()
		}
		if o == nil {
			return Source{}, false
		}
		return Source{o.SystemID, o.Database, o.Slot}, true
	}
	kit.Began = func(stream any) (any, bool) {
		s := stream.(*Stream)
		return s.given, s.cfg.anew
	}
}

// unacknowledged returns the numbers of the messages that were delivered, as of the last advance, and are not acknowledged.
func (l *ledger) unacknowledged() (numbers []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := max(l.head, l.through.Load())
	for c := l.first; c != nil; c = c.next {
		for ; n < min(l.published, c.base+chunkLen); n++ {
			if !c.isAcked(n) {
				numbers = append(numbers, int(n))
			}
		}
	}
	return numbers
}
