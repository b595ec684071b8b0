package walchan

import "sync"

// flushes are the calls of Flush that wait for the next status.
type flushes struct {
	mu      sync.Mutex
	waiting []chan struct{}
}

func (f *flushes) add() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	f.waiting = append(f.waiting, c)
	return c
}

func (f *flushes) pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

func (f *flushes) release(n int) {
	if n == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.waiting[:n] {
		close(c)
	}
	f.waiting = f.waiting[n:]
}
