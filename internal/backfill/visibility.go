package backfill

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// visibility says which transactions a snapshot of the database sees (pg_snapshot in the documentation of "System Information
// Functions"): all before min, and before max all but the running ones.
type visibility struct {
	min, max uint64
	running  []uint64 // ascending
}

func parseVisibility(s string) (v visibility, err error) {
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return v, fmt.Errorf("walchan: snapshot %q cannot be understood", s)
	}
	number := func(s string) (n uint64) {
		if err == nil {
			n, err = strconv.ParseUint(s, 10, 64)
		}
		return n
	}
	v.min, v.max = number(f[0]), number(f[1])
	if f[2] != "" {
		for xid := range strings.SplitSeq(f[2], ",") {
			v.running = append(v.running, number(xid))
		}
	}
	return v, err
}

// sees says whether it sees a transaction. The stream has only the lower 32 bits of the number. Transactions at work lie within 2^31 of
// each other.
func (v *visibility) sees(xid uint32) bool {
	full := v.max + uint64(int64(int32(xid-uint32(v.max))))
	switch {
	case full < v.min:
		return true
	case full >= v.max:
		return false
	}
	_, running := slices.BinarySearch(v.running, full)
	return !running
}
