package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// identity recognises a record that is written again.
type identity struct {
	receipt  walchan.Receipt
	position walchan.Position
	number   int // of the message's records
}

func identify(m walchan.Message, number int) identity {
	p, _ := m.Position()
	return identity{m.Receipt(), p, number}
}

// outgoing is a record to write.
type outgoing struct {
	item   int // of the batch
	of     identity
	record *kgo.Record
}

// attempt is a batch that was given to the client.
type attempt struct {
	out  []outgoing
	errs []error
	left atomic.Int64
	done chan struct{} // closed when errs is complete

	first  atomic.Int64 // 1 + index of the record that failed first; 0: none
	cancel context.CancelFunc
}

// produce gives records to the client. It returns when the client has taken them, or ctx ends, which ends those that were not sent.
//
// So does the first failure. The client gives up what it has of the partition then, and would go on with what it is given next:
// that would be stored before what failed, and who reads would take the latter for a repetition when it comes. What it is given
// before it has told of the failure cannot be taken back.
func produce(ctx context.Context, client *kgo.Client, out []outgoing) *attempt {
	a := &attempt{out: out, errs: make([]error, len(out)), done: make(chan struct{})}
	ctx, a.cancel = context.WithCancel(ctx)
	a.left.Store(int64(len(out)) + 1)
	for i := range out {
		client.Produce(ctx, out[i].record, func(_ *kgo.Record, err error) { a.finish(i, err) })
	}
	a.leave()
	return a
}

func (a *attempt) finish(i int, err error) {
	a.errs[i] = err
	if err != nil && a.first.CompareAndSwap(0, int64(i)+1) {
		a.cancel()
	}
	a.leave()
}

func (a *attempt) leave() {
	if a.left.Add(-1) == 0 {
		a.cancel()
		close(a.done)
	}
}

// wait returns when the outcome of all records is known.
func (a *attempt) wait(ctx context.Context) error {
	select {
	case <-a.done:
		return nil
	default:
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failure returns the error that came first, but that of a refused record before others: what is refused does not pass.
func (a *attempt) failure() error {
	first := int(a.first.Load()) - 1
	if first < 0 {
		return nil
	}
	for i, err := range a.errs {
		if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) || errors.Is(err, kerr.InvalidRecord) {
			return &pipeline.RefusedError{Item: a.out[i].item, Err: a.describe(i)}
		}
	}
	return a.describe(first)
}

func (a *attempt) describe(i int) error {
	return fmt.Errorf("write to %s: %w", a.out[i].record.Topic, a.errs[i])
}

// remember notes what of a failed attempt was stored. A record behind one of the same key that was not counts as not stored: it
// must be the last one.
func (s *Sink) remember(a *attempt) {
	type key struct{ topic, key string }
	missing := map[key]bool{}
	for i, o := range a.out {
		k := key{o.record.Topic, string(o.record.Key)}
		if a.errs[i] != nil || o.record.Key != nil && missing[k] {
			missing[k] = true
		} else {
			s.stored[o.of] = true
		}
	}
}
