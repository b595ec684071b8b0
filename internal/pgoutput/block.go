package pgoutput

// A row block is what a message keeps of the wire: the tuples as they came, and behind them a table of offsets, so that a
// column is found without walking the ones before it. It is one string, thus one allocation, and immutable.
//
//	[tuples: kind, int16 columns, columns …] [table of the new tuple] [table of the old tuple]
//
// A table has an entry for the tuple's kind byte ('N', 'K', 'O') and one for the kind byte of each column ('n', 'u',
// 't', 'b'; behind the latter two an int32 length and the value). Entries are little-endian uint32, counted from the
// start of the block, which is below 1 GB (PQ_LARGE_MESSAGE_LIMIT). The table of the tuple that is looked at stands at
// the end: the new row is the block without the old row's table.

const entry = 4

// TableSize returns the length of the offset table of a tuple with n columns.
func TableSize(n int) int { return entry * (n + 1) }

// TupleKind returns 'N', 'K' or 'O' for the tuple of n columns whose table ends the block.
func TupleKind(block string, n int) byte { return block[load(block, len(block)-TableSize(n))] }

// Column returns the kind and the value of column i of the tuple of n columns whose table ends the block.
func Column(block string, n, i int) (kind byte, value string) {
	if uint(i) >= uint(n) {
		panic("walchan: column index out of range")
	}
	at := load(block, len(block)-TableSize(n)+entry*(i+1))
	kind = block[at]
	if kind == 't' || kind == 'b' {
		s := block[at+1:]
		size := int(s[3]) | int(s[2])<<8 | int(s[1])<<16 | int(s[0])<<24
		value = s[4 : 4+size]
	}
	return kind, value
}

func load(s string, i int) int {
	s = s[i : i+entry]
	return int(s[0]) | int(s[1])<<8 | int(s[2])<<16 | int(s[3])<<24
}
