package walchan

import (
	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/txn"
)

// delivery is how what the server sends becomes messages.
type delivery struct {
	feed    feed.Feed // makes items of it
	shared  shared    // of their messages
	waiting Message   // does not fit into the channel yet
}

// shared is what messages of items share. Most rows are of the table, and of the transaction, of the row before.
type shared struct {
	table    *txn.Table
	relation *Relation // table; nil: none
	number   uint64    // the feed's, of tx
	tx       *Tx       // nil: none
	txs      []Tx      // a slab: transactions are mostly small, and their messages keep them
}

// handOver delivers an item, or has the feed take it back.
func (o *owner) handOver(it *feed.Item) error {
	x := &o.shared
	if it.Table != x.table {
		x.setTable(it.Table)
	}
	if it.Tx == nil || it.Tx.Number != x.number {
		x.setTx(it.Tx)
	}
	err := o.deliver(&Message{Kind: Kind(it.Kind), Ordinal: it.Ordinal, LSN: it.LSN, Tx: x.tx, Relation: x.relation,
		sent: it.Sent, split: it.Split, hash: it.Hash, data: seal(it.Data), ext: it.Ext})
	if err != nil {
		o.feed.TakeBack()
	}
	return err
}

func (x *shared) setTable(t *txn.Table) {
	x.table, x.relation = t, nil
	if t != nil {
		x.relation = t.Owner.(*Relation)
	}
}

func (x *shared) setTx(t *feed.Tx) {
	if t == nil {
		x.number, x.tx = 0, nil
		return
	}
	if len(x.txs) == cap(x.txs) {
		x.txs = make([]Tx, 0, 64)
	}
	x.txs = x.txs[:len(x.txs)+1]
	x.number, x.tx = t.Number, &x.txs[len(x.txs)-1] // zero
	x.tx.XID, x.tx.GID, x.tx.CommitLSN, x.tx.CommitTime, x.tx.Origin, x.tx.Redelivered = t.XID, t.GID, t.Commit, pgtime.Time(t.Time), t.Origin, t.Redelivered
	x.tx.origin, x.tx.before, x.tx.prepared = t.Source, t.Before, t.Prepared
}
