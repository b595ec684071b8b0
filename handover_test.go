package walchan

import (
	"testing"
	"time"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/txn"
)

// The kinds of messages that feeds make have the numbers that the feeds give them.
func TestKindsAreThoseOfTheFeeds(t *testing.T) {
	for kind, of := range map[Kind]feed.Kind{Insert: feed.Insert, Update: feed.Update, Delete: feed.Delete, Truncate: feed.Truncate, LogicalMessage: feed.LogicalMessage,
		Begin: feed.Begin, Commit: feed.Commit, Raw: feed.Raw, Prepare: feed.Prepare, CommitPrepared: feed.CommitPrepared, RollbackPrepared: feed.RollbackPrepared,
		WAL: feed.WAL, TimelineHistory: feed.TimelineHistory} {
		if kind != Kind(of) {
			t.Errorf("%s is %d, and %d of a feed", kind, kind, of)
		}
	}
}

// The messages of a transaction share a Tx, and those of a table as it was described share a Relation. A feed uses its Tx again.
func TestMessagesShareTxAndRelation(t *testing.T) {
	o := newOwner(newStream(t.Context(), newConfig(nil)))
	o.conn.Store(quietConnection(time.Now()))
	items, orders := &txn.Table{Owner: &Relation{Name: "items"}}, &txn.Table{Owner: &Relation{Name: "orders"}}
	var tx feed.Tx
	made := func(number uint64, table *txn.Table) Message {
		it := &feed.Item{Kind: feed.Insert, Table: table}
		if tx.Number, tx.XID = number, uint32(number)+700; number != 0 {
			it.Tx = &tx
		}
		if err := o.handOver(it); err != nil {
			t.Fatal(err)
		}
		return <-o.c
	}
	first, again, other := made(1, items), made(1, items), made(1, orders)
	next, outside := made(2, items), made(0, nil)
	if first.Tx == nil || first.Tx != again.Tx || first.Tx != other.Tx || first.Tx.XID != 701 {
		t.Errorf("the first transaction is %v, %v, %v", first.Tx, again.Tx, other.Tx)
	}
	if outside.Tx != nil || outside.Relation != nil {
		t.Errorf("a message outside of transactions has %v, %v", outside.Tx, outside.Relation)
	}
	if next.Tx == nil || next.Tx == first.Tx || next.Tx.XID != 702 {
		t.Errorf("the next transaction is %v", next.Tx)
	}
	if first.Relation != items.Owner || again.Relation != first.Relation || next.Relation != first.Relation || other.Relation != orders.Owner {
		t.Errorf("the tables are %v, %v, %v, %v", first.Relation, again.Relation, other.Relation, next.Relation)
	}
}
