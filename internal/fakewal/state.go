package fakewal

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// LSN is a position in the write-ahead log.
type LSN = pglogrepl.LSN

// State is what the server pretends to be. It is read when it is needed: a change through Server.Update counts from then
// on, for connections that are already open too.
type State struct {
	Version      string            // server_version, "15.18"
	SystemID     string            // "7000000000000000001"
	Timeline     int32             // 1
	WALEnd       LSN               // IDENTIFY_SYSTEM's xlogpos, 0/1000000; raised by what streams send
	Standby      bool              // pg_is_in_recovery(), in_hot_standby
	Started      time.Time         // pg_postmaster_start_time(), 2026-01-01 00:00:00 UTC
	Settings     map[string]string // SHOW name
	Slots        map[string]*Slot
	Publications []string
	Histories    map[int32]string // TIMELINE_HISTORY n

	Waiting [2]string // pg_stat_activity's wait_event_type and wait_event; Activity WalSenderMain

	backends map[uint32]bool // the rows of pg_stat_activity, by PID

	// SenderTimeout is wal_sender_timeout, 60 s: a client from which nothing came for half of it is asked for a reply,
	// and after the whole of it the connection is closed. 0: neither.
	SenderTimeout time.Duration

	// Buffer is what each direction of a connection in memory holds, in bytes: 64 KiB.
	Buffer int

	// Dial is called before a connection is made; its error is what the client's dialling gives. ctx is the client's.
	Dial func(ctx context.Context) error

	// Startup is called when the startup packet was read, before the client is let in. An Error or Fatal refuses it.
	Startup func(c *Conn) error

	// Query is asked first about every query and replication command. With neither result nor error the default answer is
	// given. An Error leaves the connection usable, a Fatal closes it, any other error is a failure (see Server.Close). It
	// may block until c.Done, and may call methods of c: Stall, Close, Send with a notice …
	Query func(c *Conn, sql string) (*Result, error)
}

// Slot is a row of pg_replication_slots. Its fields follow the streams: the flush position moves ConfirmedFlush (of a
// physical slot RestartLSN), a stream sets ActivePID, and the end of the connection, or an error on it, removes a temporary
// slot.
type Slot struct {
	Plugin         string // "" for a physical slot
	Database       string // "" for a physical slot
	Temporary      bool
	ActivePID      uint32 // 0: not active
	RestartLSN     LSN
	ConfirmedFlush LSN
	WALStatus      string // "reserved"
	TwoPhase       bool
	Invalidation   string // 17: invalidation_reason; "": none
	Failover       bool   // 17
	Synced         bool   // 17
}

// LogicalSlot is a permanent slot of pgoutput that confirmed lsn.
func LogicalSlot(lsn LSN) *Slot {
	return &Slot{Plugin: "pgoutput", Database: database, RestartLSN: lsn, ConfirmedFlush: lsn, WALStatus: "reserved"}
}

func defaultState() State {
	return State{
		Version:       "15.18",
		SystemID:      "7000000000000000001",
		Timeline:      1,
		WALEnd:        0x1000000,
		Started:       time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Waiting:       [2]string{"Activity", "WalSenderMain"},
		backends:      map[uint32]bool{},
		SenderTimeout: time.Minute,
		Buffer:        64 << 10,
		Settings: map[string]string{
			"max_replication_slots": "10",
			"max_wal_senders":       "10",
			"wal_block_size":        "8192",
			"transaction_read_only": "off",
			"wal_level":             "logical",

			"synchronous_standby_names": "",
		},
		Slots:     map[string]*Slot{},
		Histories: map[int32]string{},
	}
}

func (s *State) major() (n int) {
	fmt.Sscanf(s.Version, "%d", &n)
	return n
}

// setting is SHOW's answer.
func (s *State) setting(name string) (string, bool) {
	v, ok := s.Settings[name]
	if ok {
		return v, true
	}
	switch name {
	case "wal_sender_timeout":
		return showTime(s.SenderTimeout), true
	case "server_version":
		return s.Version, true
	case "server_version_num":
		var major, minor int
		fmt.Sscanf(s.Version, "%d.%d", &major, &minor)
		return fmt.Sprint(major*10000 + minor), true
	case "in_hot_standby":
		return onOff(s.Standby, "on", "off"), true
	}
	return "", false
}

// showTime prints like ShowGUCOption: the largest unit that leaves no rest.
func showTime(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if d%u.size == 0 {
			return fmt.Sprint(int64(d/u.size), u.name)
		}
	}
	return fmt.Sprint(d.Milliseconds(), "ms")
}

// Result answers a query. Columns are of type text.
type Result struct {
	Columns []string
	Rows    [][]any // nil is NULL, bool "t" or "f", anything else as fmt.Sprint prints it
	Tag     string  // of CommandComplete; "": "SELECT n"
}

func (r *Result) row(i int) [][]byte {
	row := make([][]byte, len(r.Rows[i]))
	for j, v := range r.Rows[i] {
		switch v := v.(type) {
		case nil:
		case bool:
			row[j] = []byte(onOff(v, "t", "f"))
		case []byte:
			row[j] = v
		default:
			row[j] = fmt.Append([]byte{}, v)
		}
	}
	return row
}

func onOff(b bool, on, off string) string {
	if b {
		return on
	}
	return off
}
