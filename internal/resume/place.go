package resume

// Source is what the messages of a connection come from. It is immutable.
type Source struct {
	Origin
	Checkpoints bool // WithCheckpoint was given
}

// Place is what the checkpoint of a message outside of transactions says.
type Place struct {
	*Source
	Point
}

// IsProvable says whether WAL was delivered before p, so that a server can be compared.
func (p Place) IsProvable() bool { return p.From < p.Through }

// With returns the point after wal, which follows p. Its hash is that of the bytes of the segment in which it ends. One page would
// not do: after pg_switch_wal it is zero in every history, and equal changes make equal pages. A segment practically always
// has a record with a time in it.
func (p Place) With(wal []byte, segment LSN) Place {
	begin := p.Through
	p.Through += LSN(len(wal))
	if first := p.Through - 1 - (p.Through-1)%segment; first > p.From && first >= begin {
		p.From, p.Hash, wal = first, 0, wal[first-begin:]
	}
	p.Hash = HashBytes(p.Hash, wal)
	return p
}
