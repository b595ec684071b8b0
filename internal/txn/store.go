package txn

// Store holds the transactions that are not yet complete. The zero value with a Limit is ready.
type Store struct {
	Limit int    // of what all together hold in memory, in bytes
	Dir   string // of temporary files; "": os.TempDir

	open   map[uint32]*Transaction
	memory int      // bytes of the chunks in use
	disk   int64    // bytes in temporary files
	free   [][]byte // chunks that were in use; together with memory they stay within the limit
}

// Begin makes the transaction.
func (s *Store) Begin(xid uint32) *Transaction {
	if s.open == nil {
		s.open = map[uint32]*Transaction{}
	}
	t := &Transaction{XID: xid, store: s}
	s.open[xid] = t
	return t
}

// Get returns a transaction that was begun and neither taken nor rolled back; otherwise nil.
func (s *Store) Get(xid uint32) *Transaction { return s.open[xid] }

// Take returns a transaction, to be read and closed, and knows it no longer; nil if there is none.
func (s *Store) Take(xid uint32) *Transaction {
	t := s.open[xid]
	delete(s.open, xid)
	return t
}

// Rollback drops what a subtransaction has made, or all of the transaction if that is xid itself. One that is not known has
// nothing to drop.
func (s *Store) Rollback(xid, subxid uint32) error {
	t := s.open[xid]
	switch {
	case t == nil:
		return nil
	case xid == subxid:
		s.Take(xid).Close()
		return nil
	}
	return t.rollBack(subxid)
}

// Reset drops all transactions.
func (s *Store) Reset() {
	for xid := range s.open {
		s.Take(xid).Close()
	}
}

// Size returns the number of bytes kept, in memory and in temporary files.
func (s *Store) Size() int64 { return int64(s.memory) + s.disk }

// bound keeps to the limit: the transaction that holds most in memory goes to its file.
func (s *Store) bound() error {
	for s.memory > s.Limit {
		var biggest *Transaction
		for _, t := range s.open {
			if biggest == nil || t.spool.memory > biggest.spool.memory {
				biggest = t
			}
		}
		if biggest == nil || biggest.spool.memory == 0 {
			return nil
		}
		if err := biggest.spool.spill(s); err != nil {
			return err
		}
	}
	return nil
}
