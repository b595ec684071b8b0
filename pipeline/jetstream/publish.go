package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// A confirmation that has not come by then does not come any more: a server that is killed takes them along. nats.go tells
// of a lost connection, but not of one that is closed for good, nor of a cluster that has no leader.
const ackWait = 20 * time.Second

var errAckWait = fmt.Errorf("it was not confirmed within %v", ackWait)

// publish publishes messages, each to follow the one before, so many at once as the window has. After an error those on
// their way are waited for, for what was stored is to be known; later ones the server refuses, for they do not follow.
func (s *Sink) publish(ctx context.Context, out []outgoing) error {
	futures := make([]natsjs.PubAckFuture, 0, len(out))
	base := s.sequence
	var failure error
	for acked := 0; acked < len(out); {
		if n := len(futures); failure == nil && n < len(out) && n-acked < s.cfg.window {
			f, err := s.send(&out[n], base+uint64(n))
			if err != nil {
				failure = publishError(&out[n], err)
				continue
			}
			futures = append(futures, f)
			continue
		}
		if acked == len(futures) {
			break
		}
		err := await(ctx, futures[acked], base+uint64(acked)+1)
		if err == nil && failure == nil {
			s.sequence++
			s.last = out[acked].mark
		} else if failure == nil {
			failure = publishError(&out[acked], err)
		}
		if errors.Is(err, errAckWait) || failure != nil && ctx.Err() != nil {
			break // nothing may come any more, or nobody waits for it
		}
		acked++
	}
	return failure
}

func (s *Sink) send(o *outgoing, after uint64) (natsjs.PubAckFuture, error) {
	// A repetition by nats.go would come behind those that were sent since.
	return s.js.PublishMsgAsync(&nats.Msg{Subject: o.subject, Data: o.data, Header: s.header(o, strconv.FormatUint(after, 10))},
		natsjs.WithRetryAttempts(0))
}

// await returns when the message is stored, as the one of that sequence.
func await(ctx context.Context, f natsjs.PubAckFuture, sequence uint64) error {
	timer := time.NewTimer(ackWait)
	defer timer.Stop()
	select {
	case ack := <-f.Ok():
		if ack.Sequence != sequence {
			return fmt.Errorf("the server has it as message %d, and not %d: it was published before", ack.Sequence, sequence)
		}
		return nil
	case err := <-f.Err():
		return err
	case <-timer.C:
		return errAckWait
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
