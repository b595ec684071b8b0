package slots

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
)

// While a stream has a temporary slot, of which its own will be a copy, others may begin to make the same slot. The first of them to
// complete it would leave the others with rows and checkpoints that do not belong to it. So the names of temporary slots say which slot
// is being made, and whoever sees another one gives way.

// Making is one of perhaps several who make the same slot.
type Making struct {
	Slot string // "": one that nobody else makes
	ID   uint64 // among those who make it
}

// Temporary returns the name of the slot from which the own one will be made. It is another one for each attempt, because the
// server may keep the last one until it notices that the connection is lost.
func (m Making) Temporary(attempt int) string { return fmt.Sprintf("%s%d", m.own(), attempt) }

// own begins the names of this one's temporary slots, and prefix those of all who make the slot.
func (m Making) own() string { return fmt.Sprintf("%s%x_", m.prefix(), m.ID) }

func (m Making) prefix() string {
	h := fnv.New64a()
	h.Write([]byte(m.Slot))
	return fmt.Sprintf("walchan_%x_", h.Sum64())
}

// Rivals is a condition for rows of pg_replication_slots: another process is making the slot.
func (m Making) Rivals() string {
	like := strings.NewReplacer("_", `\_`).Replace
	return fmt.Sprintf("temporary AND active AND slot_name LIKE '%s%%' AND slot_name NOT LIKE '%s%%'", like(m.prefix()), like(m.own()))
}

// IsMade says whether another process has made the slot by the time that the temporary one is there. It fails if another process is
// making it.
func (m Making) IsMade(ctx context.Context, query Querying) (bool, error) {
	rows, err := query(ctx, "SELECT slot_name, coalesce(active_pid, 0) FROM pg_catalog.pg_replication_slots WHERE "+m.Rivals()+
		" OR slot_name = "+pgsql.Literal(m.Slot))
	if err != nil {
		return false, pgfail.Failed("look for others that make the slot", err)
	}
	for _, row := range rows {
		if row[0] != m.Slot {
			pid, _ := strconv.ParseUint(row[1], 10, 32)
			return false, madeByAnother(m.Slot, uint32(pid))
		}
	}
	return len(rows) > 0, nil
}
