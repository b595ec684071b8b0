package fakewal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// both runs a test in a bubble over memory, and over TCP.
func both(t *testing.T, f func(t *testing.T, srv *Server)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, start(t)) })
	})
	t.Run("tcp", func(t *testing.T) {
		srv := start(t)
		if _, err := srv.Listen(); err != nil {
			t.Fatal(err)
		}
		f(t, srv)
	})
}

// start makes a server with a slot and a publication, whose scripts must not fail.
func start(t testing.TB) *Server {
	srv := New()
	srv.Update(func(s *State) {
		s.Slots["orders"] = LogicalSlot(0x100)
		s.Publications = []string{"orders"}
	})
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("script: %v", err)
		}
	})
	return srv
}

func connect(t testing.TB, srv *Server) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.ConnectConfig(t.Context(), srv.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func open(t testing.TB, srv *Server, from LSN) *pgconn.PgConn {
	t.Helper()
	conn := connect(t, srv)
	err := pglogrepl.StartReplication(t.Context(), conn, "orders", from, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'orders'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// receive returns the next message; XLogData and keepalives decoded.
func receive(t testing.TB, conn *pgconn.PgConn) any {
	t.Helper()
	msg, err := conn.Frontend().Receive()
	if err != nil {
		return err
	}
	cd, ok := msg.(*pgproto3.CopyData)
	if !ok {
		return msg
	}
	switch cd.Data[0] {
	case 'w':
		x, err := pglogrepl.ParseXLogData(cd.Data[1:])
		if err != nil {
			t.Fatal(err)
		}
		return x
	case 'k':
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(cd.Data[1:])
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	t.Fatalf("unexpected %q", cd.Data)
	return nil
}

func confirm(t testing.TB, conn *pgconn.PgConn, lsn LSN, reply bool) {
	t.Helper()
	err := pglogrepl.SendStandbyStatusUpdate(t.Context(), conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: lsn, WALFlushPosition: lsn, WALApplyPosition: lsn, ReplyRequested: reply,
	})
	if err != nil {
		t.Fatal(err)
	}
}

var orders = Relation{OID: 16400, Schema: "public", Name: "orders", Columns: []Column{
	{Name: "id", Key: true, Type: 23, Mod: -1}, {Name: "what", Type: 25, Mod: -1}}}

var purchase = Tx{XID: 700, First: 0x110, Commit: 0x180, End: 0x1b0,
	Changes: [][]byte{orders.Encode(), Insert(orders.OID, "1", "a book")}}

func TestStream(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		srv.Serve(func(c *Conn) error {
			if err := c.Play(purchase.Frames()...); err != nil {
				return err
			}
			if err := c.Keepalive(0x1c0, true); err != nil {
				return err
			}
			if s, err := c.AwaitFlush(0x1b0); err != nil || s.Write != 0x1b0 {
				return errors.Join(errors.New("flush"), err)
			}
			return nil
		})
		conn := connect(t, srv)
		id, err := pglogrepl.IdentifySystem(t.Context(), conn)
		if err != nil || id.DBName != "fakewal" || id.Timeline != 1 || id.XLogPos != 0x1000000 {
			t.Fatalf("identify: %+v, %v", id, err)
		}
		conn.Close(t.Context())

		conn = open(t, srv, 0)
		var starts []LSN
		for range 4 {
			starts = append(starts, receive(t, conn).(pglogrepl.XLogData).WALStart)
		}
		if starts[0] != 0x110 || starts[1] != 0 || starts[3] != 0x1b0 {
			t.Errorf("positions %v", starts)
		}
		if k := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage); k.ServerWALEnd != 0x1c0 || !k.ReplyRequested {
			t.Errorf("keepalive %+v", k)
		}
		confirm(t, conn, 0x1b0, true)
		if k := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage); k.ServerWALEnd != 0x1c0 || k.ReplyRequested {
			t.Errorf("reply %+v", k)
		}
		if _, err := pglogrepl.SendStandbyCopyDone(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if slot, _ := srv.Slot("orders"); slot.ConfirmedFlush != 0x1b0 {
			t.Errorf("slot %+v", slot)
		}
		if s := srv.Starts(); len(s) != 1 || s[0].From != 0x100 || s[0].Options["publication_names"] != "orders" {
			t.Errorf("starts %+v", s)
		}
	})
}

// kinds receives to ReadyForQuery or an error and says what came.
func kinds(t testing.TB, conn *pgconn.PgConn) string {
	t.Helper()
	var all []string
	for {
		switch m := receive(t, conn).(type) {
		case error:
			return strings.Join(append(all, "error"), " ")
		case pglogrepl.XLogData:
			all = append(all, "data")
		case pglogrepl.PrimaryKeepaliveMessage:
			all = append(all, "keepalive")
		case *pgproto3.CommandComplete:
			all = append(all, "("+string(m.CommandTag)+")")
		case *pgproto3.DataRow:
			all = append(all, string(bytes.Join(m.Values, []byte("|"))))
		case *pgproto3.ErrorResponse:
			all = append(all, m.Severity+" "+m.Code)
		case *pgproto3.ReadyForQuery:
			return strings.Join(append(all, "ready"), " ")
		default:
			all = append(all, strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3."))
		}
	}
}

func send(t testing.TB, conn *pgconn.PgConn, m pgproto3.FrontendMessage) {
	t.Helper()
	conn.Frontend().Send(m)
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
}

// The sequences that PostgreSQL 15.18 was seen to send.
func TestFarewell(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		srv.Serve(func(c *Conn) error {
			if err := c.AwaitDone(); err != nil {
				return err
			}
			for range 3 { // the transaction goes on although the client has had enough
				if err := c.Play(purchase.Frames()...); err != nil {
					return err
				}
			}
			_, err := c.AwaitFlush(0x1b0) // will not come
			return err
		})
		conn := open(t, srv, 0)
		send(t, conn, &pgproto3.CopyDone{})
		data := strings.Repeat("data ", 12)
		got := kinds(t, conn)
		got = strings.Replace(got, "CopyDone ", "", 1) // as soon as it may
		if got != data+"keepalive (COPY 0) (START_REPLICATION) ready" {
			t.Error(got)
		}
		if got := ask(t, conn, "SELECT active FROM pg_replication_slots"); got != "f" {
			t.Errorf("active: %s", got)
		}
		send(t, conn, &pgproto3.Query{String: "START_REPLICATION SLOT orders LOGICAL 0/0"})
		if got := kinds(t, conn); got != "CopyBothResponse (COPY 0) (START_REPLICATION) ready" {
			t.Errorf("second stream: %s", got)
		}
		if n := len(srv.Starts()); n != 1 {
			t.Errorf("%d starts", n)
		}
	})
}

func TestCopyDoneIsAnsweredBesideTheScript(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		release := make(chan struct{})
		srv.Serve(func(c *Conn) error { <-release; return nil })
		conn := open(t, srv, 0)
		send(t, conn, &pgproto3.CopyDone{})
		if m, ok := receive(t, conn).(*pgproto3.CopyDone); !ok {
			t.Errorf("%T", m)
		}
		close(release)
		if got := kinds(t, conn); got != "keepalive (COPY 0) (START_REPLICATION) ready" {
			t.Error(got)
		}
	})
}

func TestNothingComesBehindTheEnd(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		for range 50 {
			conn := open(t, srv, 0)
			confirm(t, conn, 0x100, true)
			send(t, conn, &pgproto3.CopyDone{})
			if got := kinds(t, conn); !strings.HasSuffix(got, "(COPY 0) (START_REPLICATION) ready") {
				t.Fatal(got)
			}
			if got := ask(t, conn, "SELECT 1"); got != "1" {
				t.Fatal(got)
			}
			conn.Close(t.Context())
		}
	})
}

func TestPhysical(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		srv.Serve(
			func(c *Conn) error {
				if err := c.Data(0x1000000, 0x1000010, []byte("sixteen bytes...")); err != nil {
					return err
				}
				return c.EndTimeline(2, 0x1000010)
			},
			func(c *Conn) error { return nil },
		)
		srv.Update(func(s *State) { s.Slots["standby"] = &Slot{} })
		conn := connect(t, srv)
		send(t, conn, &pgproto3.Query{String: "START_REPLICATION PHYSICAL 0/1000000 TIMELINE 1"})
		for _, want := range []string{"*pgproto3.CopyBothResponse", "pglogrepl.XLogData", "*pgproto3.CopyDone"} {
			if got := fmt.Sprintf("%T", receive(t, conn)); got != want {
				t.Errorf("%s, not %s", got, want)
			}
		}
		send(t, conn, &pgproto3.CopyDone{})
		if got := kinds(t, conn); got != "RowDescription 2|0/1000010 (START_STREAMING) (START_REPLICATION) ready" {
			t.Error(got)
		}
		send(t, conn, &pgproto3.Query{String: "START_REPLICATION SLOT standby PHYSICAL 0/1000010 TIMELINE 2"})
		receive(t, conn)
		confirm(t, conn, 0x1000020, false)
		send(t, conn, &pgproto3.CopyDone{})
		if got := kinds(t, conn); got != "CopyDone (START_STREAMING) (START_REPLICATION) ready" {
			t.Error(got)
		}
		if slot, _ := srv.Slot("standby"); slot.RestartLSN != 0x1000020 || slot.ConfirmedFlush != 0 || slot.ActivePID != 0 {
			t.Errorf("%+v", slot)
		}
		if s := srv.Starts(); len(s) != 2 || s[1].Timeline != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestErrors(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		srv.Serve(
			func(c *Conn) error {
				if err := c.Play(purchase.Frames()[:2]...); err != nil {
					return err
				}
				return Error("XX000", "could not map filenode")
			},
			func(c *Conn) error { return Fatal("57P01", "terminating connection due to administrator command") },
		)
		conn := open(t, srv, 0)
		if got := kinds(t, conn); got != "data data ERROR XX000 ready" {
			t.Error(got)
		}
		confirm(t, conn, 0x1b0, true) // was on its way
		send(t, conn, &pgproto3.CopyDone{})
		if got := ask(t, conn, "SELECT active, confirmed_flush_lsn FROM pg_replication_slots"); got != "f|0/100" {
			t.Errorf("slot: %s", got)
		}
		if got := kinds(t, open(t, srv, 0)); got != "FATAL 57P01 error" {
			t.Error(got)
		}
	})
}

func TestCutAndScriptsInTurn(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		frames := purchase.Frames()
		srv.Serve(
			func(c *Conn) error {
				if err := c.Play(frames[:2]...); err != nil {
					return err
				}
				return c.Cut(frames[2], 20)
			},
			func(c *Conn) error { _, err := c.ReadStatus(); c.Reset(); return err },
			func(c *Conn) error { return c.Play(Since([]Tx{purchase}, c.Start.From)...) },
		)
		conn := open(t, srv, 0)
		if a, b := receive(t, conn), receive(t, conn); fmt.Sprintf("%T %T", a, b) != "pglogrepl.XLogData pglogrepl.XLogData" {
			t.Error(a, b)
		}
		if err, ok := receive(t, conn).(error); !ok || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut: %v", err)
		}
		conn = open(t, srv, 0)
		confirm(t, conn, 0x100, false)
		if err, ok := receive(t, conn).(error); !ok || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset: %v", err)
		}
		for range 2 { // the last script plays all that follow
			conn := open(t, srv, 0)
			for range frames {
				if x, ok := receive(t, conn).(pglogrepl.XLogData); !ok {
					t.Errorf("%T", x)
				}
			}
			send(t, conn, &pgproto3.CopyDone{})
			kinds(t, conn)
		}
		conn = open(t, srv, 0x181) // the commit record lies before
		send(t, conn, &pgproto3.CopyDone{})
		if got := kinds(t, conn); got != "CopyDone keepalive (COPY 0) (START_REPLICATION) ready" {
			t.Errorf("from 0x181: %s", got)
		}
	})
}

func TestGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		srv.Serve(func(c *Conn) error { return c.Raw([]byte("d\x00\x00\x00\x00")) })
		if err, ok := receive(t, open(t, srv, 0)).(error); !ok {
			t.Errorf("%v", err)
		}
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		srv.Serve(func(c *Conn) error {
			if err := c.Keepalive(0x1000, false); err != nil {
				return err
			}
			c.Stall()
			return c.Keepalive(0x2000, false) // lost
		})
		conn := open(t, srv, 0)
		receive(t, conn)
		for range 10_000 { // more than the buffer holds: nobody reads, yet nothing blocks
			confirm(t, conn, 0x1000, true)
		}
		conn.Conn().SetReadDeadline(time.Now().Add(10 * time.Second))
		if err, ok := receive(t, conn).(error); !ok || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		conn.Close(t.Context())
		synctest.Wait()
		if slot, _ := srv.Slot("orders"); slot.ActivePID == 0 || slot.ConfirmedFlush != 0x100 {
			t.Errorf("the server noticed: %+v", slot)
		}
		if got := ask(t, connect(t, srv), "START_REPLICATION SLOT orders LOGICAL 0/0"); got != "55006" {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if slot, _ := srv.Slot("orders"); slot.ActivePID != 0 {
			t.Error("active after wal_sender_timeout")
		}
	})
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		srv.Serve(func(c *Conn) error {
			c.Throttle(1000)
			return c.Data(0x110, 0x110, make([]byte, 10_000-headerLen))
		})
		conn := open(t, srv, 0)
		began := time.Now()
		receive(t, conn)
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("10,000 bytes at 1,000 a second took %v", d)
		}
	})
}

func TestSenderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		conn := open(t, srv, 0)
		began := time.Now()
		for range 3 { // a status postpones both
			k, ok := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage)
			if d := time.Since(began); !ok || !k.ReplyRequested || d != 30*time.Second {
				t.Errorf("ping %+v after %v", k, d)
			}
			confirm(t, conn, 0, false)
			began = time.Now()
		}
		receive(t, conn)
		if err, ok := receive(t, conn).(error); !ok || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A client that does not read is not lost as long as it reports, and what the server owes it queues behind the data.
func TestBlockedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		srv.Update(func(s *State) { s.Buffer = 1000 })
		srv.Serve(func(c *Conn) error {
			for range 10 {
				if err := c.Data(0x110, 0x110, make([]byte, 5000)); err != nil {
					return err
				}
			}
			return nil
		})
		conn := open(t, srv, 0)
		for range 20 {
			time.Sleep(20 * time.Second)
			confirm(t, conn, 0x100, true)
		}
		send(t, conn, &pgproto3.CopyDone{})
		got := kinds(t, conn)
		if strings.Count(got, "data") != 10 || !strings.Contains(got, " keepalive") || !strings.HasSuffix(got, "ready") {
			t.Error(got)
		}
	})
}

func TestShutdownWaitsForTheExactPosition(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		srv.Serve(func(c *Conn) error {
			if err := c.Keepalive(0x1000, false); err != nil {
				return err
			}
			return c.Shutdown()
		})
		conn := open(t, srv, 0)
		receive(t, conn)
		for _, lsn := range []LSN{0xfff, 0x1001, 0x1000} {
			if k, ok := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage); !ok || !k.ReplyRequested || k.ServerWALEnd != 0x1000 {
				t.Errorf("%+v", k)
			}
			confirm(t, conn, lsn, false)
		}
		if got := kinds(t, conn); got != "(COPY 0) error" {
			t.Error(got)
		}
	})
}

func TestStatuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		began := time.Now()
		srv.Serve(func(c *Conn) error {
			for i, want := range []LSN{0x110, 0x120, 0x130} {
				s, err := c.ReadStatus()
				if err != nil {
					return err
				}
				if s.Write != want || s.Flush != want || s.Apply != want || !s.At.Equal(began.Add(time.Duration(i)*time.Second)) ||
					!s.At.Equal(s.Clock) || s.Reply != (i == 1) {
					t.Errorf("%d: %+v", i, s)
				}
			}
			if s, err := c.AwaitFlush(0x115); err != nil || s.Flush != 0x120 {
				t.Errorf("flush %+v, %v", s, err)
			}
			if n := len(c.Statuses()); n != 3 {
				t.Errorf("%d statuses", n)
			}
			_, err := c.ReadStatus()
			if !errors.Is(err, ErrGone) {
				t.Errorf("at the end: %v", err)
			}
			return err
		})
		conn := open(t, srv, 0)
		for i, lsn := range []LSN{0x110, 0x120, 0x130} {
			confirm(t, conn, lsn, i == 1)
			time.Sleep(time.Second)
		}
		conn.Close(t.Context())
	})
}

func TestCloseReportsAndEndsEverything(t *testing.T) {
	both(t, func(t *testing.T, _ *Server) {
		srv := New()
		srv.Update(func(s *State) { s.Slots["orders"] = LogicalSlot(0x100) })
		wrong := errors.New("wrong flush")
		waiting := make(chan error, 2)
		srv.Serve(
			func(c *Conn) error { return wrong },
			func(c *Conn) error {
				_, err := c.ReadStatus()
				time.Sleep(time.Millisecond) // Close waits
				waiting <- err
				return err
			},
			func(c *Conn) error {
				for {
					if err := c.Raw(make([]byte, 1000)); err != nil { // blocks: nobody reads
						waiting <- err
						return err
					}
				}
			},
		)
		if got := kinds(t, open(t, srv, 0)); got != "error" {
			t.Error(got)
		}
		open(t, srv, 0)
		srv.Update(func(s *State) { s.Slots["orders"] = LogicalSlot(0x100) })
		open(t, srv, 0)
		connect(t, srv)
		if err := srv.Close(); !errors.Is(err, wrong) || strings.Count(err.Error(), "\n") != 0 {
			t.Errorf("close: %v", err)
		}
		close(waiting)
		if len(waiting) != 2 {
			t.Errorf("%d scripts have ended", len(waiting))
		}
		for err := range waiting {
			if !errors.Is(err, ErrGone) {
				t.Errorf("script: %v", err)
			}
		}
		if _, err := pgconn.ConnectConfig(t.Context(), srv.Config()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after close: %v", err)
		}
	})
}
