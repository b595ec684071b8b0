package pipeline

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/kit"
)

// What Transactions ends with.
var (
	// ErrTransactionTooLarge: a transaction exceeds the limit given to Transactions.
	ErrTransactionTooLarge = errors.New("pipeline: transaction is too large")

	// ErrNoTransactions: the stream does not tell where transactions end. Give it walchan.WithTransactions.
	ErrNoTransactions = errors.New("pipeline: a change came without the begin of its transaction: the stream needs WithTransactions")
)

// Transactions makes each transaction one item: its messages, from Begin to Commit or Prepare. A message outside of
// transactions, such as a CommitPrepared, is an item by itself. The stream needs walchan.WithTransactions.
//
// A transaction is in memory as a whole. One that exceeds l, in messages or bytes (Message.Size), is ErrTransactionTooLarge,
// which ends the group; l.Items and l.Bytes are 100,000 and 64 MiB where they are 0, and l.Wait does not matter. While
// such a transaction is collected nothing of it is acknowledged: walchan.WithMaxUnacked must allow for that.
//
// What a sink is to write at once may be several whole transactions:
//
//	several := pipeline.Batch(g, pipeline.Transactions(g, g.Source(), pipeline.Limit{}), pipeline.Limit{Items: 100})
//	pipeline.Into(g, pipeline.Concat(g, several), sink)
func Transactions(g *Group, in <-chan Item[walchan.Message], l Limit) <-chan Item[[]walchan.Message] {
	if l.Items <= 0 {
		l.Items = 100_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	return stage(g, 0, func(out chan<- Item[[]walchan.Message]) error {
		t := transaction{group: g, limit: l}
		for {
			it, ok, err := receive(g, in)
			if !ok {
				return err
			}
			whole, err := t.add(it)
			if err != nil {
				return err
			}
			if whole {
				if err := send(g, out, t.take()); err != nil {
					return err
				}
			}
		}
	})
}

// Concat makes one slice of several: whole transactions that belong to one batch.
func Concat[T any](g *Group, in <-chan Item[[][]T]) <-chan Item[[]T] {
	return stage(g, 0, func(out chan<- Item[[]T]) error {
		for {
			it, ok, err := receive(g, in)
			if !ok {
				return err
			}
			if err := send(g, out, With(it, slices.Concat(it.Value...))); err != nil {
				return err
			}
		}
	})
}

// transaction is one that is being collected.
type transaction struct {
	group    *Group
	limit    Limit
	tx       *walchan.Tx // nil: none has begun
	messages []walchan.Message
	acks     []ack
	bytes    int
}

// add adds a message. whole says that the transaction is complete.
func (t *transaction) add(it Item[walchan.Message]) (whole bool, err error) {
	m := it.Value
	switch {
	case m.Kind == walchan.Begin:
		// One that was delivered in part, and comes again from its beginning (Tx.Redelivered): the part is acknowledged
		// together with the whole.
		t.tx, t.messages, t.bytes = m.Tx, t.messages[:0], 0
	case t.tx == nil:
		whole = m.Tx == nil || m.Kind == walchan.CommitPrepared || m.Kind == walchan.RollbackPrepared
		if !whole && m.Ordinal <= 2 && !t.group.beganWithin(m.Tx) {
			return false, fmt.Errorf("%w: %v", ErrNoTransactions, m)
		}
		if !whole { // the rest of a transaction, after a checkpoint in its middle
			t.tx = m.Tx
		}
	}
	t.messages, t.acks = append(t.messages, m), append(t.acks, it.ack)
	t.bytes += m.Size()
	if !whole && (len(t.messages) > t.limit.Items || t.bytes > t.limit.Bytes) {
		return false, fmt.Errorf("%w: xid %d has more than %d messages or %d bytes; raise the limit of Transactions, or do without them",
			ErrTransactionTooLarge, m.Tx.XID, t.limit.Items, t.limit.Bytes)
	}
	return whole || m.Kind == walchan.Commit || m.Kind == walchan.Prepare, nil
}

// beganWithin says whether the stream began after a message of the transaction: the checkpoint may be that of its Begin.
func (g *Group) beganWithin(tx *walchan.Tx) bool {
	if g.stream == nil {
		return false
	}
	began, _ := kit.Began(g.stream)
	return began.(walchan.Checkpoint).Position().Commit == tx.CommitLSN
}

func (t *transaction) take() Item[[]walchan.Message] {
	it := Item[[]walchan.Message]{t.messages, join(t.acks)}
	t.tx, t.messages, t.acks, t.bytes = nil, nil, nil, 0
	return it
}
