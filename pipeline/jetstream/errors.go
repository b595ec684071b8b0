package jetstream

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan/pipeline"
)

// What Open, Checkpoint, and after a failure Write, can end with.
var (
	// ErrStream: there is no stream of the name, or one that will not do.
	ErrStream = errors.New("the stream of JetStream will not do")

	// ErrForeign: somebody else publishes into the stream.
	ErrForeign = errors.New("the stream of JetStream is not the sink's own")

	// ErrLost: messages are gone that the server had confirmed. PostgreSQL will not send them again.
	ErrLost = errors.New("the stream of JetStream has lost messages")
)

// From the server's errors.json: JSStreamMessageExceedsMaximumErr.
const tooLarge natsjs.ErrorCode = 10054

// publishError says what to do about the error of one message.
func publishError(o *outgoing, err error) error {
	var api *natsjs.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload), errors.As(err, &api) && api.ErrorCode == tooLarge:
		return &pipeline.RefusedError{Item: o.item, Err: fmt.Errorf("publish to %s: %d bytes: %w", o.subject, len(o.data), err)}
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("publish to %s: the connection has given up; connect with nats.MaxReconnects(-1): %w", o.subject, err)
	case errors.Is(err, natsjs.ErrNoStreamResponse):
		return fmt.Errorf("publish to %s: no stream takes it; is the subject among those of the stream? %w", o.subject, err)
	}
	return fmt.Errorf("publish to %s: %w", o.subject, err)
}
