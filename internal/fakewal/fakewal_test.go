package fakewal

import (
	"context"
	"errors"
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

func TestSenderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := start(t)
		conn := open(t, srv, 0)
		began := time.Now()
		k := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage)
		if d := time.Since(began); !k.ReplyRequested || d != 30*time.Second {
			t.Errorf("ping %+v after %v", k, d)
		}
		if err, ok := receive(t, conn).(error); !ok || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
