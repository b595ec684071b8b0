package walchan

import (
	"context"
)

// succession lets others follow the stream from one connection to the next: ReadRows must not keep its session while the
// stream has no connection.
//
// A server that is stopping in smart mode waits until all ordinary sessions have ended, and refuses new connections, also those
// of the stream. A session that waits for something that only comes over the stream would wait for ever, and the server with it.
type succession struct {
	life   context.Context // ends with the connection
	finish context.CancelFunc
	next   chan struct{} // closed when the stream has its next connection
}

func newSuccession() succession {
	life, finish := context.WithCancel(context.Background())
	return succession{life, finish, make(chan struct{})}
}

// succeed makes c the stream's connection.
func (o *owner) succeed(c *connection) {
	if last := o.conn.Swap(c); last != nil && last != c {
		close(last.next)
	}
}
