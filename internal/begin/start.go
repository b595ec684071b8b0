package begin

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/wal"
)

// StartLogical returns the command START_REPLICATION of a logical slot. args are the options of its output plugin.
func StartLogical(slot string, from wal.LSN, args map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "START_REPLICATION SLOT %s LOGICAL %s", pgsql.Quoted(slot), from)
	separator := " ("
	for _, k := range slices.Sorted(maps.Keys(args)) {
		b.WriteString(separator)
		separator = ", "
		b.WriteString(pgsql.Quoted(k))
		if args[k] != "" {
			b.WriteString(" '" + strings.ReplaceAll(args[k], "'", "''") + "'")
		}
	}
	if len(args) > 0 {
		b.WriteByte(')')
	}
	return b.String()
}

// StartPhysical returns the command START_REPLICATION of a timeline's WAL. slot is "" without one.
func StartPhysical(slot string, from wal.LSN, timeline int32) string {
	if slot != "" {
		slot = "SLOT " + pgsql.Quoted(slot) + " "
	}
	return fmt.Sprintf("START_REPLICATION %sPHYSICAL %s TIMELINE %d", slot, from, timeline)
}
