package walchan

import (
	"fmt"
	"strconv"
	"strings"
)

// Position identifies and orders changes within one Source, across reconnects and restarts of the process: a sink that
// stores the Position of the last change it has applied recognises what it is sent again. Its text is "16/B374D848:3".
type Position struct {
	Commit  LSN    // Tx.CommitLSN; of a non-transactional LogicalMessage its own LSN
	Ordinal uint32 // Message.Ordinal
}

// ParsePosition reads the text form. The error shows the text.
func ParsePosition(text string) (Position, error) {
	lsn, ordinal, hasOrdinal := strings.Cut(text, ":")
	high, low, hasLow := strings.Cut(lsn, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	n, err3 := strconv.ParseUint(ordinal, 10, 32)
	if !hasOrdinal || !hasLow || err1 != nil || err2 != nil || err3 != nil {
		return Position{}, fmt.Errorf("walchan: %q is no position, which is as 16/B374D848:3", text)
	}
	return Position{LSN(h<<32 | l), uint32(n)}, nil
}

// Compare returns -1, 0 or +1 as p lies before, at or after q in the order of delivery.
func (p Position) Compare(q Position) int {
	switch {
	case p.Commit < q.Commit, p.Commit == q.Commit && p.Ordinal < q.Ordinal:
		return -1
	case p == q:
		return 0
	}
	return 1
}

// String returns the position as "16/B374D848:3".
func (p Position) String() string { return fmt.Sprintf("%s:%d", p.Commit, p.Ordinal) }

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePosition.
func (p *Position) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePosition(string(text))
	return err
}
