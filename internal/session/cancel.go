package session

import (
	"context"
	"time"
)

// cancelAgain lies between two requests to cancel. The first may come before the server has read the statement: then it does nothing.
const cancelAgain = 100 * time.Millisecond

// QueryAnswered is Query that makes sure of the outcome. When ctx ends it cancels the statement on the server and
// waits for the answer, at most for patience. The answer may be that the statement was faster: then there is no error. An
// error without an SQLSTATE leaves the outcome open, and the connection unusable.
func (c *Conn) QueryAnswered(ctx context.Context, sql string, patience time.Duration) ([][]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	unanswered, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	answered, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-answered:
			return
		case <-ctx.Done():
		}
		defer time.AfterFunc(patience, giveUp).Stop()
		c.cancelUntil(answered, unanswered)
	}()
	rows, err := c.Query(unanswered, sql)
	close(answered)
	<-done // a request that is still under way would cancel the next statement
	return rows, err
}

func (c *Conn) cancelUntil(answered <-chan struct{}, ctx context.Context) {
	for {
		_ = c.Cancel(ctx)
		select {
		case <-answered:
			return
		case <-ctx.Done():
			return
		case <-time.After(cancelAgain):
		}
	}
}

// Cancel asks the server, over another connection, to cancel the statement that runs on this one. It may be called from any
// goroutine, also when the connection is closed.
func (c *Conn) Cancel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return c.pg.CancelRequest(ctx)
}
