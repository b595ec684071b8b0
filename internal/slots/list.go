package slots

import (
	"context"
	"encoding/json"
	"reflect"
	"time"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/wal"
)

// Listed is a slot as pg_replication_slots has it. The tags are the columns: one that the server does not have is the zero value.
// admin.Slot has the same fields, and says what they mean.
type Listed struct {
	Name               string    `json:"slot_name"`
	Type               string    `json:"slot_type"`
	Plugin             string    `json:"plugin"`
	Database           string    `json:"database"`
	Temporary          bool      `json:"temporary"`
	Active             bool      `json:"active"`
	ActivePID          uint32    `json:"active_pid"`
	RestartLSN         wal.LSN   `json:"restart_lsn"`
	ConfirmedFlush     wal.LSN   `json:"confirmed_flush_lsn"`
	Retained           int64     `json:"retained"` // not a column: see list
	WALStatus          string    `json:"wal_status"`
	SafeWALSize        *int64    `json:"safe_wal_size"`
	XMin               uint32    `json:"xmin,string"`
	CatalogXMin        uint32    `json:"catalog_xmin,string"`
	TwoPhase           bool      `json:"two_phase"`
	InvalidationReason string    `json:"invalidation_reason"`
	InactiveSince      time.Time `json:"inactive_since"`
	Failover           bool      `json:"failover"`
	Synced             bool      `json:"synced"`
	Conflicting        bool      `json:"conflicting"`
}

// list returns each slot as JSON, with whatever columns the version has.
const list = `SELECT pg_catalog.to_jsonb(s) || pg_catalog.jsonb_build_object(
		'retained', greatest(pg_catalog.pg_wal_lsn_diff(w.wal_end, s.restart_lsn), 0))
	FROM pg_catalog.pg_replication_slots s, (SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
		THEN greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
		ELSE pg_catalog.pg_current_wal_lsn() END) w(wal_end)
	ORDER BY s.slot_name COLLATE "C"`

// List returns the slots of the server, by name.
func List(ctx context.Context, query Querying) ([]Listed, error) {
	rows, err := query(ctx, list)
	if err != nil {
		return nil, pgfail.Failed("list the slots", err)
	}
	slots := make([]Listed, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal([]byte(row[0]), &slots[i]); err != nil {
			return nil, pgfail.Failed("list the slots", err)
		}
	}
	return slots, nil
}

// position is a wal.LSN that is text in JSON ("0/15D68C8").
type position wal.LSN

func (p *position) UnmarshalText(text []byte) error {
	lsn, err := wal.ParseLSN(string(text))
	*p = position(lsn)
	return err
}

// asText is Listed with a position for each wal.LSN.
var asText = func() reflect.Type {
	fields := reflect.VisibleFields(reflect.TypeFor[Listed]())
	for i := range fields {
		if fields[i].Type == reflect.TypeFor[wal.LSN]() {
			fields[i].Type = reflect.TypeFor[position]()
		}
	}
	return reflect.StructOf(fields)
}()

// UnmarshalJSON reads a slot as the server writes it.
func (s *Listed) UnmarshalJSON(row []byte) error {
	read := reflect.New(asText)
	if err := json.Unmarshal(row, read.Interface()); err != nil {
		return err
	}
	to := reflect.ValueOf(s).Elem()
	for i := range to.NumField() {
		to.Field(i).Set(read.Elem().Field(i).Convert(to.Field(i).Type()))
	}
	return nil
}
