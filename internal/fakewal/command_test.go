package fakewal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// ask returns the rows, one a line, NULL as a dash; or the error's code.
func ask(t testing.TB, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		var e *pgconn.PgError
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", sql, err)
		}
		return e.Code
	}
	var lines []string
	for _, r := range results {
		for _, row := range r.Rows {
			var values []string
			for _, v := range row {
				if v == nil {
					v = []byte("-")
				}
				values = append(values, string(v))
			}
			lines = append(lines, strings.Join(values, "|"))
		}
	}
	return strings.Join(lines, "\n")
}

func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		srv.Update(func(s *State) {
			s.Publications = []string{"orders", `it's`}
			s.Slots["standby"] = &Slot{RestartLSN: 0x90, WALStatus: "reserved"}
			s.Histories[2] = "1\t0/200\tno recovery target specified\n"
			s.SenderTimeout = 90 * time.Second
		})
		conn := connect(t, srv)
		for _, q := range []struct{ sql, want string }{
			{"SHOW wal_sender_timeout", "90s"},
			{"show wal_level;", "logical"},
			{"SHOW server_version_num", "150018"},
			{"SHOW nope", "42704"},
			{"", ""},
			{"-- ping", ""},
			{"FOO", "42601"},
			{"TIMELINE_HISTORY 2", "00000002.history|1\t0/200\tno recovery target specified\n"},
			{"TIMELINE_HISTORY 3", "58P01"},
			{"SELECT 1", "1"},
			{"SELECT pg_is_in_recovery(), current_database() AS db, current_setting('wal_level')", "f|fakewal|logical"},
			{"SELECT pubname FROM pg_publication WHERE pubname IN ('orders', 'missing')", "orders"},
			{"SELECT pubname FROM pg_publication WHERE pubname = ANY ('{orders,\"it''s\"}'::text[])", "orders\nit's"},
			{"SELECT pubname FROM pg_publication WHERE pubname = ANY (ARRAY['it''s', E'a\\\\b'])", "it's"},
			{"SELECT p.pubname, puballtables FROM pg_catalog.pg_publication AS p WHERE p.pubname = 'orders'", "orders|f"},
			{"SELECT slot_name, slot_type, plugin, database, active, active_pid, confirmed_flush_lsn FROM pg_replication_slots",
				"orders|logical|pgoutput|fakewal|f|-|0/100\nstandby|physical|-|-|f|-|-"},
			{"SELECT restart_lsn::text l FROM pg_replication_slots s WHERE s.slot_name = 'standby' AND slot_type = 'physical'", "0/90"},
			{"SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = 'orders'", "0"},
			{"SELECT slot_name FROM pg_replication_slots WHERE active", ""},
			{"SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'x'", ""},
			{"SELECT failover FROM pg_replication_slots", "42703"}, // since 17
			{"SELECT relname FROM pg_class", "42P01"},
			{"SELECT now()", "42883"},
			{"SELECT slot_name FROM pg_replication_slots LIMIT 1", "0A000"},
			{"SELECT slot_name || 'x' FROM pg_replication_slots", "0A000"},
			{"START_REPLICATION SLOT missing LOGICAL 0/0", "42704"},
			{"START_REPLICATION SLOT orders LOGICAL here", "42601"},
			{"DROP_REPLICATION_SLOT standby WAIT", ""},
			{"DROP_REPLICATION_SLOT standby", "42704"},
		} {
			if got := ask(t, conn, q.sql); got != q.want {
				t.Errorf("%s: %q, not %q", q.sql, got, q.want)
			}
		}
		srv.Update(func(s *State) { s.Version = "17.2" })
		if got := ask(t, conn, "SELECT failover, invalidation_reason FROM pg_replication_slots"); got != "f|-" {
			t.Errorf("17: %q", got)
		}
		if q := srv.Queries(); q[0] != "SHOW wal_sender_timeout" {
			t.Errorf("queries %q", q)
		}
	})
}

func TestSlotsAreCreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		conn := connect(t, srv)
		create := func(sql, want string) {
			t.Helper()
			if got := ask(t, conn, "CREATE_REPLICATION_SLOT "+sql); got != want {
				t.Errorf("%s: %q, not %q", sql, got, want)
			}
		}
		create("orders LOGICAL pgoutput", "42710")
		create("a LOGICAL pgoutput", "a|0/1000000|000003E9-00000001-1|pgoutput")
		create(`"b" LOGICAL test_decoding (SNAPSHOT 'nothing', TWO_PHASE, FAILOVER true)`, "b|0/1000000|-|test_decoding")
		create("c PHYSICAL", "c|0/0|-|-")
		create("d TEMPORARY LOGICAL pgoutput USE_SNAPSHOT", "d|0/1000000|-|pgoutput")
		if b, _ := srv.Slot("b"); !b.TwoPhase || !b.Failover || b.Temporary || b.Plugin != "test_decoding" {
			t.Errorf("b: %+v", b)
		}
		other := connect(t, srv)
		if got := ask(t, other, "START_REPLICATION SLOT d LOGICAL 0/0"); got != "55006" {
			t.Errorf("another connection takes a temporary slot: %s", got)
		}
		if got := ask(t, conn, "FOO"); got != "42601" {
			t.Error(got)
		}
		if _, ok := srv.Slot("d"); ok {
			t.Error("a temporary slot outlives an error")
		}
		create("d TEMPORARY LOGICAL pgoutput", "d|0/1000000|000003E9-00000001-1|pgoutput")
		conn.Close(t.Context())
		synctest.Wait()
		if _, ok := srv.Slot("d"); ok {
			t.Error("a temporary slot outlives its connection")
		}
		if _, ok := srv.Slot("a"); !ok {
			t.Error("a permanent slot does not")
		}
	})
}

func TestKindsOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		dial := func(replication string) *pgconn.PgConn {
			cfg := srv.Config()
			delete(cfg.RuntimeParams, "replication")
			if replication != "" {
				cfg.RuntimeParams["replication"] = replication
			}
			conn, err := pgconn.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close(context.Background()) })
			return conn
		}
		for _, q := range []struct{ replication, sql, want string }{
			{"", "SELECT 1", "1"},
			{"", "IDENTIFY_SYSTEM", "42601"},
			{"", "START_REPLICATION SLOT orders LOGICAL 0/0", "42601"},
			{"true", "SELECT 1", "0A000"},
			{"true", "IDENTIFY_SYSTEM", "7000000000000000001|1|0/1000000|-"},
			{"database", "IDENTIFY_SYSTEM", "7000000000000000001|1|0/1000000|fakewal"},
		} {
			if got := ask(t, dial(q.replication), q.sql); got != q.want {
				t.Errorf("replication=%s: %s: %q, not %q", q.replication, q.sql, got, q.want)
			}
		}
		conn := dial("database")
		if _, err := conn.Prepare(t.Context(), "", "SELECT 1", nil); err == nil || !strings.Contains(err.Error(), "08P01") {
			t.Errorf("extended protocol: %v", err)
		}
		if got := ask(t, conn, "SELECT 1"); got != "1" {
			t.Errorf("behind it: %s", got)
		}
	})
}

func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		notices := make(chan string, 1)
		config := func() *pgconn.Config {
			cfg := srv.Config()
			cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices <- n.Message }
			return cfg
		}
		srv.Update(func(s *State) {
			s.Query = func(c *Conn, sql string) (*Result, error) {
				switch {
				case sql == "SELECT mine":
					c.Send(&pgproto3.NoticeResponse{Severity: "WARNING", Message: "look out"})
					return &Result{Columns: []string{"a", "b"}, Rows: [][]any{{true, nil}, {[]byte("x"), 7}}}, nil
				case sql == "SHUT":
					return nil, Fatal("57P01", "terminating connection due to administrator command")
				case sql == "HANG":
					<-c.Done()
					return nil, ErrGone
				case strings.HasPrefix(sql, "START_REPLICATION"):
					return &Result{Columns: []string{"next_tli", "next_tli_startpos"}, Rows: [][]any{{2, LSN(0x200)}}}, nil
				}
				return nil, nil
			}
		})
		conn, err := pgconn.ConnectConfig(t.Context(), config())
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, conn, "SELECT mine"); got != "t|-\nx|7" || <-notices != "look out" {
			t.Errorf("hook: %q", got)
		}
		if got := ask(t, conn, "SELECT 1"); got != "1" {
			t.Errorf("default: %q", got)
		}
		err = pglogrepl.StartReplication(t.Context(), conn, "", 0x200,
			pglogrepl.StartReplicationOptions{Mode: pglogrepl.PhysicalReplication})
		if tli, at, ok := pglogrepl.IsErrEndTimeline(err); !ok || tli != 2 || at != 0x200 {
			t.Errorf("timeline: %v", err)
		}
		if got := ask(t, conn, "SHUT"); got != "57P01" {
			t.Error(got)
		}
		hanging := connect(t, srv)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := hanging.Exec(ctx, "HANG").ReadAll(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: %v", err)
		}
		<-hanging.CleanupDone()

		srv.Update(func(s *State) {
			s.Startup = func(c *Conn) error { return Error("57P03", "the database system is "+c.Params["user"]) }
		})
		var e *pgconn.PgError
		if _, err := pgconn.ConnectConfig(t.Context(), config()); !errors.As(err, &e) || e.Code != "57P03" || e.Severity != "FATAL" {
			t.Errorf("startup: %v", err)
		}
		unreachable := errors.New("unreachable")
		srv.Update(func(s *State) { s.Dial = func(context.Context) error { return unreachable } })
		if _, err := pgconn.ConnectConfig(t.Context(), config()); !errors.Is(err, unreachable) {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestShowTime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", time.Minute: "1min", 90 * time.Second: "90s", 2 * time.Hour: "2h", 48 * time.Hour: "2d", 1500 * time.Millisecond: "1500ms",
	} {
		if got := showTime(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
}

func TestParseStart(t *testing.T) {
	const sql = `START_REPLICATION SLOT "my_slot" LOGICAL 16/B374D848 (proto_version '2', "publication_names" '"a b","it''s"', binary)`
	s, err := parseStart(sql, lex(sql))
	got := fmt.Sprintf("%s %v %s %q %v", s.Slot, s.Logical, s.LSN, s.Options, err)
	want := `my_slot true 16/B374D848 map["binary":"" "proto_version":"2" "publication_names":"\"a b\",\"it's\""] <nil>`
	if got != want {
		t.Errorf("%s\nnot %s", got, want)
	}
	const physical = "START_REPLICATION 0/3000000 TIMELINE 4"
	s, err = parseStart(physical, lex(physical))
	if err != nil || s.Logical || s.Slot != "" || s.LSN != 0x3000000 || s.Timeline != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"START_REPLICATION", "START_REPLICATION 0/1 TIMELINE x", "START_REPLICATION LOGICAL 0/1 (a 'b' c)",
		"START_REPLICATION 0/1 more", "START_REPLICATION 0/1 (a"} {
		if _, err := parseStart(bad, lex(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
