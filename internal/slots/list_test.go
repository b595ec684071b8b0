package slots_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/slots"
)

// unlisted are the columns that Listed leaves out, and why.
var unlisted = map[string]string{
	"datoid":       "database is its name",
	"two_phase_at": "two_phase says that prepared transactions are decoded, and nobody has asked since where",
}

// newest is the newest version whose columns are known here.
const newest = 18

// All columns of the server's view are listed, or left out on purpose. A column of a newer version shows here.
func TestListHasAllColumns(t *testing.T) {
	db := pgtest.Database(t)
	columns := strings.Fields(db.Query(t, "SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = 'pg_replication_slots'::regclass AND attnum > 0"))
	has := map[string]bool{"retained": true} // it is not the view's
	for _, name := range columns {
		has[name] = true
	}
	listed := map[string]bool{}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[slots.Listed]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		listed[name] = true
		if db.Version() >= newest && !has[name] {
			t.Errorf("%s: PostgreSQL %d has no column %q", field.Name, db.Version(), name)
		}
	}
	for _, name := range columns {
		if !listed[name] && unlisted[name] == "" {
			t.Errorf("PostgreSQL %d has a column %q that is not listed", db.Version(), name)
		}
	}
}
