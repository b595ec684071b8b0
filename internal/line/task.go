package line

import (
	"context"
	"time"
)

// task is a goroutine that asks the server something beside the stream.
type task struct {
	done chan struct{} // closed when it has ended; nil: it was not begun
	stop context.CancelFunc
}

// begin runs f, unless it still runs.
func (t *task) begin(parent context.Context, timeout time.Duration, f func(context.Context)) {
	if t.done != nil {
		select {
		case <-t.done:
		default:
			return
		}
	}
	ctx, cancel := context.WithTimeout(parent, timeout)
	done := make(chan struct{})
	t.done, t.stop = done, cancel
	go func() {
		defer close(done)
		defer cancel()
		f(ctx)
	}()
}

// end stops it and waits for it.
func (t *task) end() {
	if t.done != nil {
		t.stop()
		<-t.done
	}
}
