package walchan_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

// What psycopg2's own tests of replication do (tests/test_replication.py), each with walchan: that whoever comes from there finds
// everything again.

// likePsycopg2 is a database with a table, as in psycopg2's tests, and what they do with it: a few changes.
func likePsycopg2(t *testing.T) (db pgtest.DB, change func()) {
	t.Helper()
	noLeaks(t)
	t.Parallel()
	db = pgtest.Database(t)
	db.Exec(t, "CREATE TABLE events (id serial PRIMARY KEY, what text)")
	return db, func() {
		t.Helper()
		db.Exec(t, "INSERT INTO events (what) VALUES ('one')", "INSERT INTO events (what) SELECT 'many' FROM generate_series(1, 5)", "UPDATE events SET what = 'other'")
	}
}

func testDecoding(slot string, opts ...walchan.Option) []walchan.Option {
	return append([]walchan.Option{walchan.WithSlot(slot), walchan.WithPlugin("test_decoding", nil)}, opts...)
}

// IDENTIFY_SYSTEM on a logical connection: what the stream's positions belong to.
func TestPsycopg2IdentifySystem(t *testing.T) {
	db, _ := likePsycopg2(t)
	s := mustSubscribe(t, db.DSN(), testDecoding(db.Name, walchan.WithCreateSlot())...)
	want := walchan.Source{SystemID: db.Query(t, "SELECT system_identifier FROM pg_control_system()"), Database: db.Name, Slot: db.Name}
	if got := s.Source(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Connecting with another style of dates breaks no timestamp.
func TestPsycopg2DateStyle(t *testing.T) {
	db, change := likePsycopg2(t)
	s := mustSubscribe(t, db.DSN("options=-cdatestyle=german"), testDecoding(db.Name, walchan.WithCreateSlot())...)
	change()
	if m := next(t, s); time.Since(m.SentAt()).Abs() > time.Hour {
		t.Errorf("sent at %s", m.SentAt())
	}
}

// A slot cannot be made twice.
func TestPsycopg2CreateSlotTwice(t *testing.T) {
	db, _ := likePsycopg2(t)
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	_, err := operator(t, db.DSN()).CreateSlot(t.Context(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	check(t, err, walchan.ErrSlotExists, db.Name)
	if err := dropSlot(t.Context(), db.DSN(), db.Name); err != nil {
		t.Error(err)
	}
}

// Starting on a slot that is missing fails, and then works with the same arguments once it is there.
func TestPsycopg2StartOnMissingSlot(t *testing.T) {
	db, change := likePsycopg2(t)
	opts := testDecoding(db.Name)
	check(t, trySubscribe(t, db.DSN(), opts...), walchan.ErrSlotMissing, db.Name)
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	s := mustSubscribe(t, db.DSN(), opts...)
	change()
	next(t, s)
}

// start_replication_expert: any plugin, any option, any beginning.
func TestPsycopg2StartReplicationExpert(t *testing.T) {
	db, change := likePsycopg2(t)
	from := mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	change()
	s := mustSubscribe(t, db.DSN(), testDecoding(db.Name, walchan.WithFrom(from), walchan.WithPluginOption("include-xids", "0"), walchan.WithPluginOption("skip-empty-xacts", ""))...)
	if got := take(t, s, 2); got[0].Payload() != "BEGIN" || got[1].Payload() != "table public.events: INSERT: id[integer]:1 what[text]:'one'" {
		t.Errorf("%q, %q", got[0].Payload(), got[1].Payload())
	}
}

// An option that the plugin does not know is a clear error, and can be corrected.
func TestPsycopg2StartAndRecoverFromError(t *testing.T) {
	db, change := likePsycopg2(t)
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	check(t, trySubscribe(t, db.DSN(), testDecoding(db.Name, walchan.WithPluginOption("invalid", "value"))...), walchan.ErrPluginOption, "invalid", "value")
	s := mustSubscribe(t, db.DSN(), testDecoding(db.Name)...)
	change()
	next(t, s)
}

// StopReplication at the first message.
func TestPsycopg2StopReplication(t *testing.T) {
	db, change := likePsycopg2(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	change()
	mustCreateSlot(t, db.DSN(), admin.SlotSpec{Name: db.Name, Plugin: "test_decoding"})
	change()
	s, err := walchan.Subscribe(ctx, db.DSN(), testDecoding(db.Name, walchan.WithBuffer(1, 1))...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	received := 0
	for m := range s.C() {
		received++
		stop()
		s.Ack(m)
	}
	if err := s.Err(); err != nil || received > 3 {
		t.Errorf("%d messages, %v", received, err)
	}
}

// The asynchronous way: no loop that blocks; each message acknowledged, and a reply asked for; timestamps and positions to be read.
func TestPsycopg2Async(t *testing.T) {
	db, change := likePsycopg2(t)
	s := mustSubscribe(t, db.DSN(), testDecoding(db.Name, walchan.WithCreateSlot())...)
	select {
	case m := <-s.C():
		t.Fatalf("%v before there is any", m)
	default:
	}
	began := time.Now()
	change()
	timeout := time.After(patience)
	for commits := 0; commits < 3; {
		select {
		case m := <-s.C():
			if m.SentAt().Before(began.Add(-time.Minute)) || m.LSN == 0 || len(m.Payload()) == 0 {
				t.Errorf("%v, sent at %s", m, m.SentAt())
			}
			s.Ack(m)
			if len(m.Payload()) > 6 && m.Payload()[:6] == "COMMIT" {
				commits++
			}
		case <-timeout:
			t.Fatalf("%+v", s.Stats())
		}
	}
	flush(t, s) // send_feedback(force=True)
	if st := s.Stats(); st.Confirmed == 0 || st.Received < st.Confirmed || st.Unacked != 0 || st.Since.Before(began.Add(-time.Minute)) {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err != nil && !errors.Is(err, walchan.ErrClosed) {
		t.Error(err)
	}
}
