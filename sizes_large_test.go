package walchan_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/fakewal"
)

// A large row that the consumer has let go is not kept while the stream is quiet.
func TestLargeRowIsLetGo(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		before := heapMB()
		s := subscribeTo(t, srv)
		s.Ack(<-s.C())
		time.Sleep(time.Hour)
		if after := heapMB(); after > before+32 {
			t.Errorf("%d MB an hour after a row of 64 MB, and %d MB before it", after, before)
		}
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		if err := c.Play(tx(1, 0x200, strings.Repeat("x", 64<<20)).Frames()...); err != nil {
			return err
		}
		for { // the server goes on
			time.Sleep(6 * time.Minute)
			if err := c.Keepalive(0x300, false); err != nil {
				return err
			}
		}
	})
}

func heapMB() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc >> 20
}
