package walchan_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// decoded is a transaction as test_decoding sends it.
func decoded(xid int, at walchan.LSN, rows ...string) (frames []fakewal.Frame) {
	add := func(lsn walchan.LSN, s string) {
		frames = append(frames, fakewal.Frame{Start: lsn, Payload: []byte(s)})
	}
	add(at, fmt.Sprintf("BEGIN %d", xid))
	for _, r := range rows {
		add(at, "table public.t: INSERT: id[text]:'"+r+"'")
	}
	add(at+0xb0, fmt.Sprintf("COMMIT %d", xid))
	return frames
}

func receiveRaw(s *walchan.Stream, n int) (got []walchan.Message) {
	for range n {
		got = append(got, <-s.C())
	}
	return got
}

// Acknowledgements that arrive while the server is sending the older transactions again must not make the stream forget what
// is still to be sent again.
func TestRawAcknowledgedWhileSentAgain(t *testing.T) {
	log := [][]fakewal.Frame{decoded(1, 0x200, "a"), decoded(2, 0x300, "b", "c"), decoded(3, 0x400, "d", "e")}
	all := slices.Concat(log...)
	part := len(log[0]) + len(log[1]) + 2 // as far as "d"
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		srv.Update(func(st *fakewal.State) { st.Slots["p"].Plugin = "test_decoding" })
		s, err := walchan.Subscribe(t.Context(), fakewal.DSN, walchan.WithSlot("p"), walchan.WithPlugin("test_decoding", nil),
			walchan.WithConnect(srv.Configure), walchan.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		got := receiveRaw(s, part)
		srv.CloseConns()
		for len(srv.Starts()) < 2 {
			time.Sleep(time.Millisecond)
		}
		s.AckThrough(got[part-3]) // transactions 1 and 2
		got = append(got, receiveRaw(s, len(all)-part)...)
		for i, m := range got {
			if want := string(all[i].Payload); m.Payload() != want {
				t.Errorf("message %d is %q, not %q", i, m.Payload(), want)
			}
		}
		nothingMore(t, s)
		s.Close()
	}, func(c *fakewal.Conn) error { return c.Play(all[:part]...) }, func(c *fakewal.Conn) error {
		if _, err := c.AwaitFlush(0x3b0); err != nil {
			return err
		}
		return c.Play(all...)
	})
}
