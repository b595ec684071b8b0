package walchan

import (
	"github.com/walchan/walchan/internal/kit"
	"github.com/walchan/walchan/internal/resume"
)

func init() {
	kit.Unacknowledged = func(stream any) []int { return stream.(*Stream).ledger.Unacknowledged() }
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
