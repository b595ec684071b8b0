package walchan_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) with(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

func (l *lines) option() walchan.Option {
	return walchan.WithLogger(slog.New(slog.NewTextHandler(l, nil)))
}

// retryLate has the delays that a standby has come to which has waited for long.
var retryLate = walchan.WithRetry(func() backoff.BackOff { return backoff.NewConstantBackOff(time.Hour) })

// leader holds the slot of a stream as another process would, until it is killed: its connection is cut.
func leader(t *testing.T, db pgtest.DB, slot, application, command string) (kill func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	kind := "replication=database"
	if strings.Contains(command, "PHYSICAL") {
		kind = "replication=true"
	}
	c, err := pgconn.Connect(ctx, db.DSN(kind, "application_name="+application))
	if err != nil {
		t.Fatal(err)
	}
	c.Frontend().SendQuery(query(command))
	if err := c.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	db.Wait(t, "SELECT active FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	t.Cleanup(func() { c.Conn().Close() })
	return func() { c.Conn().Close() }
}

// A standby that has waited for however long takes over within 2 s. It has one connection meanwhile, and says for whom it waits.
func TestStandbyTakesOverAtOnce(t *testing.T) {
	for _, tt := range []struct{ name, create, start string }{
		{"logical", "pg_create_logical_replication_slot('%', 'pgoutput')", `START_REPLICATION SLOT "%" LOGICAL 0/0 (proto_version '1', publication_names 'p')`},
		{"physical", "pg_create_physical_replication_slot('%', true)", `START_REPLICATION SLOT "%" PHYSICAL @`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := newTables(t, 0)
			named := func(s string) string { return strings.ReplaceAll(s, "%", db.Name) }
			db.Exec(t, "SELECT "+named(tt.create))
			t.Cleanup(func() {
				pgtest.Exec(t, db.Cluster.DSN(), "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND slot_type = 'physical'")
			})
			kill := leader(t, db, db.Name, "leader", strings.ReplaceAll(named(tt.start), "@", walEnd(t, db).String()))
			var log lines
			opts := []walchan.Option{walchan.WithSlot(db.Name), walchan.WithWaitForSlot(), retryLate, log.option()}
			standby := make(chan *walchan.Stream, 1)
			go func() {
				var s *walchan.Stream
				var err error
				dsn := db.DSN("application_name=standby")
				if tt.name == "physical" {
					s, err = walchan.SubscribePhysical(t.Context(), dsn, opts...)
				} else {
					s, err = walchan.Subscribe(t.Context(), dsn, append(opts, walchan.WithPublication("p"))...)
				}
				if err != nil {
					t.Error(err)
				}
				standby <- s
			}()
			const waiting = "pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'standby' AND query LIKE '%LEFT JOIN%')"
			db.Wait(t, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND "+waiting)
			before := db.Query(t, "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE datname = current_database() AND "+waiting)
			looked := db.Query(t, "SELECT max(query_start) FROM pg_stat_activity WHERE datname = current_database() AND "+waiting)
			db.Wait(t, "SELECT max(query_start) > '"+looked+"' FROM pg_stat_activity WHERE datname = current_database() AND "+waiting)
			if now := db.Query(t, "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE datname = current_database() AND "+waiting); now != before {
				t.Errorf("it has connected again: %s, then %s", before, now)
			}
			kill()
			db.Wait(t, "SELECT NOT active OR active_pid IN (SELECT pid FROM pg_stat_replication WHERE application_name = 'standby') FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
			free := time.Now()
			select {
			case s := <-standby:
				if took := time.Since(free); took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
				if s != nil {
					mustClose(t, s)
				}
			case <-time.After(patience):
				t.Fatal("it does not take over")
			}
			said := log.with("waiting for the slot")
			if len(said) != 1 || !strings.Contains(said[0], "level=INFO") || !strings.Contains(said[0], "application_name=leader client_addr=127.0.0.1") {
				t.Errorf("it says %q", said)
			}
			if bad := append(log.with("pg_terminate_backend"), log.with("level=WARN")...); bad != nil {
				t.Errorf("it says %q", bad)
			}
		})
	}
}

// Another leader is another line.
func TestStandbySaysForWhomItWaits(t *testing.T) {
	db := newSource(t)
	start := `START_REPLICATION SLOT "` + db.Name + `" LOGICAL 0/0 (proto_version '1', publication_names 'p')`
	var log lines
	kill := leader(t, db, db.Name, "first", start)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		s, err := walchan.Subscribe(ctx, db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithWaitForSlot(), retryLate, log.option())
		if err == nil {
			s.Close()
		}
		ended <- err
	}()
	said := func(application string) {
		t.Helper()
		for end := time.Now().Add(patience); len(log.with("application_name="+application+" ")) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%q", log.with(""))
			}
		}
	}
	said("first")
	// The slot goes from hand to hand between two looks, if this is not the one time that the standby is faster.
	kill()
	for {
		c, err := pgconn.Connect(t.Context(), db.DSN("replication=database", "application_name=second"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Conn().Close()
		c.Frontend().SendQuery(query(start))
		if err := c.Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReceiveMessage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if db.Query(t, "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = '"+db.Name+"' AND application_name = 'second'") == "1" {
			break
		}
		if len(ended) > 0 {
			t.Skip("the standby was faster")
		}
	}
	said("second")
	cancel()
	if err := <-ended; err == nil || strings.Contains(err.Error(), "pg_terminate_backend") {
		t.Errorf("%v", err)
	}
}

func query(sql string) *pgproto3.Query { return &pgproto3.Query{String: sql} }
