package slots_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
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
	if db.Version() < newest {
		t.Logf("PostgreSQL %d may lack columns: only %d shows whether each field has one (WALCHAN_PGBIN)", db.Version(), newest)
	}
	for _, name := range columns {
		if !listed[name] && unlisted[name] == "" {
			t.Errorf("PostgreSQL %d has a column %q that is not listed", db.Version(), name)
		}
	}
}

// A row is read whatever columns the version has. A position is text, and a number of a transaction, too.
func TestListReadsRows(t *testing.T) {
	size := int64(-1)
	for row, want := range map[string]slots.Listed{
		`{"slot_name": "s", "slot_type": "physical", "restart_lsn": null, "xmin": null, "temporary": false, "retained": null}`: {Name: "s", Type: "physical"},
		`{"slot_name": "s", "slot_type": "logical", "plugin": "pgoutput", "database": "shop", "temporary": true, "active": true, "active_pid": 7,
			"restart_lsn": "1/A0", "confirmed_flush_lsn": "FFFFFFFF/FFFFFFFF", "retained": 96, "wal_status": "extended", "safe_wal_size": -1,
			"catalog_xmin": "4294967295", "inactive_since": "2026-01-02T03:04:05+00:00", "column_to_come": {"x": 1}}`: {
			Name: "s", Type: "logical", Plugin: "pgoutput", Database: "shop", Temporary: true, Active: true, ActivePID: 7,
			RestartLSN: 0x1000000A0, ConfirmedFlush: ^wal.LSN(0), Retained: 96, WALStatus: "extended", SafeWALSize: &size,
			CatalogXMin: 1<<32 - 1, InactiveSince: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	} {
		list, err := slots.List(t.Context(), func(context.Context, string) ([][]string, error) { return [][]string{{row}}, nil })
		if err != nil {
			t.Fatal(err)
		}
		list[0].InactiveSince = list[0].InactiveSince.UTC()
		if len(list) != 1 || !reflect.DeepEqual(list[0], want) {
			t.Errorf("%s is read as %+v", row, list)
		}
	}
	for _, row := range []string{`{"restart_lsn": "x"}`, `{"restart_lsn": 5}`, `[]`} {
		if list, err := slots.List(t.Context(), func(context.Context, string) ([][]string, error) { return [][]string{{row}}, nil }); err == nil {
			t.Errorf("%s is read as %+v", row, list)
		}
	}
}
