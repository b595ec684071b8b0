package fakewal

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walchan/walchan/internal/pgoutput"
)

// record returns purchase as it is on the wire, a logical message and a keepalive behind it.
func record() (b []byte) {
	for _, f := range purchase.Frames() {
		b = f.Append(b)
	}
	b = Frame{0x1c0, 0x1c0, Message(false, 0x1c0, "p", []byte("c"))}.Append(b)
	return AppendKeepalive(b, 0x1d0, true)
}

func TestReplayMovesPositions(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		const rounds, step = 3, 0x1000
		srv.Serve(func(c *Conn) error { return c.Replay(Repeat(record(), rounds, step)) })
		conn := open(t, srv, 0)
		var d pgoutput.Decoder
		for round := range LSN(rounds) {
			shift := round * step
			for _, want := range []struct {
				kind            byte
				start, lsn, end LSN
			}{{'B', 0x110, 0x180, 0}, {'R', 0, 0, 0}, {'I', 0x148, 0, 0}, {'C', 0x1b0, 0x180, 0x1b0}, {'M', 0x1c0, 0x1c0, 0}} {
				for _, lsn := range []*LSN{&want.start, &want.lsn, &want.end} {
					if *lsn != 0 {
						*lsn += shift
					}
				}
				x, ok := receive(t, conn).(pglogrepl.XLogData)
				if !ok {
					t.Fatalf("%c: no data", want.kind)
				}
				ev, err := d.Decode(x.WALData)
				if err != nil || x.WALStart != want.start || x.ServerWALEnd != want.start || ev.Type != want.kind ||
					LSN(ev.LSN) != want.lsn || LSN(ev.End) != want.end {
					t.Errorf("round %d: %v %+v %v, not %+v", round, x.WALStart, ev, err, want)
				}
			}
			if k, ok := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage); !ok || k.ServerWALEnd != 0x1d0+shift || !k.ReplyRequested {
				t.Errorf("keepalive %+v", k)
			}
		}
		send(t, conn, &pgproto3.CopyDone{})
		if got := kinds(t, conn); got != "CopyDone keepalive (COPY 0) (START_REPLICATION) ready" {
			t.Error(got)
		}
	})
}

// While a replay runs the client asks for replies, which must not break into its frames.
func TestRepliesWaitForReplay(t *testing.T) {
	both(t, func(t *testing.T, srv *Server) {
		const rounds = 2000
		srv.Serve(func(c *Conn) error { return c.Replay(Repeat(record(), rounds, 0)) })
		conn := open(t, srv, 0)
		for i := range rounds * 6 {
			if i%20 == 10 { // by then the replay has begun
				confirm(t, conn, 0x100, true)
			}
			if err, ok := receive(t, conn).(error); ok {
				t.Fatal(err)
			}
		}
		if k, ok := receive(t, conn).(pglogrepl.PrimaryKeepaliveMessage); !ok || k.ReplyRequested {
			t.Errorf("%+v", k)
		}
	})
}

func TestRepeat(t *testing.T) {
	for n, want := range map[int]string{0: "", 1: "abc", 3: "abcabcabc"} {
		got, err := io.ReadAll(Repeat([]byte("abc"), n, 0))
		if err != nil || string(got) != want {
			t.Errorf("%d times: %q, %v", n, got, err)
		}
	}
	recorded := record()
	kept := bytes.Clone(recorded)
	if _, err := io.Copy(io.Discard, Repeat(recorded, 3, 8)); err != nil || !bytes.Equal(recorded, kept) {
		t.Errorf("the recording was changed, %v", err)
	}
	if got, err := io.ReadAll(Repeat(nil, 3, 8)); len(got) > 0 || err != nil {
		t.Errorf("nothing: %q, %v", got, err)
	}
}

func TestClock(t *testing.T) {
	at := time.Date(2024, 2, 29, 1, 2, 3, 456789000, time.UTC)
	if got := fromMicros(micros(at)); !got.Equal(at) {
		t.Error(got)
	}
	if got := micros(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)); got != 0 {
		t.Error(got)
	}
}

// What a client can get at most; per op one message of about 75 bytes.
func BenchmarkReplay(b *testing.B) {
	for _, over := range []string{"memory", "tcp"} {
		b.Run(over, func(b *testing.B) {
			srv := start(b)
			srv.Update(func(s *State) { s.Buffer = 1 << 20 })
			if over == "tcp" {
				if _, err := srv.Listen(); err != nil {
					b.Fatal(err)
				}
			}
			recorded := bytes.Repeat(record(), 1000)
			srv.Serve(func(c *Conn) error { return c.Replay(Repeat(recorded, b.N/6000+1, 0x1000)) })
			conn := open(b, srv, 0)
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(recorded) / 6000))
			b.ResetTimer()
			for left := b.N * len(recorded) / 6000; left > 0; {
				n, err := conn.Conn().Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				left -= n
			}
		})
	}
}
