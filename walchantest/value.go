package walchantest

import (
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

var (
	types    = pgtype.NewMap()
	encoding sync.Mutex // types remembers how it has encoded
)

// encode returns the value of column i as the server sends it, in text format.
func (t *Table) encode(i int, v any) any {
	c := t.rel.Columns[i]
	switch v := v.(type) {
	case nil, string:
		return v
	case time.Time:
		if c.Type == pgtype.TimestamptzOID {
			return v.UTC().Format("2006-01-02 15:04:05.999999") + "+00" // pgtype writes Z, which PostgreSQL does not
		}
	}
	if v == Unchanged {
		return v
	}
	encoding.Lock()
	defer encoding.Unlock()
	b, err := types.Encode(c.Type, pgtype.TextFormatCode, v, nil)
	switch {
	case err != nil:
		panic(fmt.Sprintf("walchantest: column %s of %s: %v", c.Name, t.name(), err))
	case b == nil:
		return nil // such as a nil pointer
	}
	return string(b)
}
