package pipeline

import (
	"hash/maphash"

	"github.com/walchan/walchan"
)

var seed = maphash.MakeSeed()

// ByKey is the key of Keyed for messages: the table and the columns of its replica identity, which is the primary key unless
// somebody has altered that. What must keep its place among all is a barrier: a TRUNCATE, an UPDATE that changes the key,
// a row without a key, and everything that is not a row. So Begin and Commit are barriers; leave out
// walchan.WithTransactions.
//
// With REPLICA IDENTITY FULL the key is the whole row, and every UPDATE changes it: ByColumns is better there.
func ByKey(m walchan.Message) (k uint64, barrier bool) {
	return hashKey(m, func(c *walchan.Column) bool { return c.Key })
}

// ByColumns is ByKey with these columns as the key. It is for columns whose old value is known when it changes, so that it is
// seen: those of the replica identity, or any with REPLICA IDENTITY FULL. A row whose table does not have them all is
// a barrier.
func ByColumns(names ...string) func(m walchan.Message) (k uint64, barrier bool) {
	return func(m walchan.Message) (uint64, bool) {
		if m.Relation == nil {
			return 0, true
		}
		for _, name := range names {
			if m.Relation.Index(name) < 0 {
				return 0, true
			}
		}
		return hashKey(m, func(c *walchan.Column) bool {
			for _, name := range names {
				if c.Name == name {
					return true
				}
			}
			return false
		})
	}
}

func hashKey(m walchan.Message, isKey func(*walchan.Column) bool) (k uint64, barrier bool) {
	row, old := m.New(), m.Old()
	if row.Len() == 0 {
		row = old
	}
	if row.Len() == 0 {
		return 0, true
	}
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, m.Relation.OID)
	found := false
	for i := range m.Relation.Columns {
		if !isKey(&m.Relation.Columns[i]) {
			continue
		}
		found = true
		state, v := row.State(i), row.Text(i)
		if old.Len() > 0 {
			before, was := old.State(i), old.Text(i)
			switch {
			case state == walchan.Unchanged:
				state, v = before, was
			case before != walchan.NotSent && (before != state || was != v):
				return 0, true
			}
		}
		if state == walchan.Unchanged || state == walchan.NotSent {
			return 0, true // the key is not known
		}
		h.WriteByte(byte(state))
		h.WriteString(v)
		h.WriteByte(0) // no value has it in text; else two keys share a lane, no more
	}
	return h.Sum64(), !found
}
