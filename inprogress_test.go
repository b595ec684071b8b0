package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

var then = time.Unix(1_700_000_000, 0)

// block is a block of a transaction in progress, with rows of a subtransaction.
func block(xid, subxid uint32, first bool, rows ...any) []fakewal.Frame {
	frames := []fakewal.Frame{{Payload: fakewal.StreamStart(xid, first)}, {Payload: fakewal.InStream(subxid, table.Encode())}}
	for _, r := range rows {
		frames = append(frames, fakewal.Frame{Start: 0x180, Payload: fakewal.InStream(subxid, fakewal.Insert(table.OID, r))})
	}
	return append(frames, fakewal.Frame{Payload: fakewal.StreamStop()})
}

func streamCommit(xid uint32, at walchan.LSN) []fakewal.Frame {
	return []fakewal.Frame{{Start: at, Payload: fakewal.StreamCommit(xid, at+0x80, at+0xb0, then)}}
}

func playing(parts ...[]fakewal.Frame) fakewal.Script {
	return func(c *fakewal.Conn) error { return c.Play(slices.Concat(parts...)...) }
}

// What is not committed keeps nothing from being confirmed: the server sends it again.
func TestPositionBetweenBlocksIsConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithStreaming())
		m := <-s.C()
		time.Sleep(time.Minute)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x100 {
			t.Errorf("confirmed %s while a message is in hand", slot.ConfirmedFlush)
		}
		if st := s.Stats(); st.Spooled == 0 {
			t.Errorf("nothing is spooled: %+v", st)
		}
		s.Ack(m)
		time.Sleep(time.Minute)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x900 {
			t.Errorf("confirmed %s, not the position behind the block", slot.ConfirmedFlush)
		}
		finish(t, s)
		if st := s.Stats(); st.Spooled != 0 {
			t.Errorf("still spooled: %+v", st)
		}
	}, func(c *fakewal.Conn) error {
		if err := playing(block(7, 7, true, "a"), tx(1, 0x200, "b").Frames(), block(7, 7, false, "c"))(c); err != nil {
			return err
		}
		return c.Keepalive(0x900, false)
	})
}

// Once it is committed it is like any other: a position received behind it waits for its messages.
func TestPositionBehindAStreamedTransactionWaitsForIt(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithStreaming(), walchan.WithBuffer(1, 1<<20))
		var held []walchan.Message
		for range 3 {
			time.Sleep(time.Minute)
			held = append(held, <-s.C())
			if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x100 {
				t.Errorf("confirmed %s with %d messages in hand", slot.ConfirmedFlush, len(held))
			}
		}
		time.Sleep(time.Minute)
		for _, m := range held {
			s.Ack(m)
		}
		time.Sleep(time.Second)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x900 {
			t.Errorf("confirmed %s", slot.ConfirmedFlush)
		}
		if len(srv.Starts()) != 1 {
			t.Error("the server was not told that we live")
		}
		finish(t, s)
	}, func(c *fakewal.Conn) error {
		if err := playing(block(7, 7, true, "a", "b", "c"), streamCommit(7, 0x300))(c); err != nil {
			return err
		}
		return c.Keepalive(0x900, false)
	})
}

// A table that is described otherwise while a transaction is in progress is for all others what it was described as last.
func TestTableDescribedSinceTheTransactionBegan(t *testing.T) {
	wider := table
	wider.Columns = append(slices.Clone(table.Columns), fakewal.Column{Name: "more", Mod: -1})
	other := tx(1, 0x200)
	other.Changes = [][]byte{wider.Encode(), fakewal.Insert(table.OID, "b", "more")}
	last := tx(2, 0x400)
	last.Changes = [][]byte{fakewal.Insert(table.OID, "c", "more")}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithStreaming())
		if got := receive(t, s, 3, true); !slices.Equal(got, []string{"1:b", "7:a", "2:c"}) {
			t.Error(got)
		}
		finish(t, s)
	}, playing(block(7, 7, true, "a"), other.Frames(), streamCommit(7, 0x300), last.Frames()))
}

// One that is described in a transaction in progress is known to others once that is committed.
func TestTableDescribedInAStreamedTransaction(t *testing.T) {
	last := tx(2, 0x400)
	last.Changes = [][]byte{fakewal.Insert(table.OID, "c")}
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithStreaming())
		if got := receive(t, s, 2, true); !slices.Equal(got, []string{"7:a", "2:c"}) {
			t.Error(got)
		}
		finish(t, s)
	}, playing(block(7, 7, true, "a"), streamCommit(7, 0x300), last.Frames()))
}

// PostgreSQL 18 tells of the end of transactions of which it has sent nothing, also to those who have not asked for any.
func TestAbortOfATransactionThatIsNotKnown(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv)
		if got := receive(t, s, 1, true); !slices.Equal(got, []string{"1:a"}) {
			t.Error(got)
		}
		finish(t, s)
	}, playing([]fakewal.Frame{{Payload: fakewal.StreamAbort(7, 7)}, {Payload: fakewal.StreamAbort(7, 8)}}, tx(1, 0x200, "a").Frames()))
}

// PostgreSQL 18 sends the Prepare of a transaction without changes, but not its beginning; older ones only the outcome; and
// only that is delivered.
func TestPreparedWithoutChanges(t *testing.T) {
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		s := subscribeTo(t, srv, walchan.WithTwoPhase(), walchan.WithTransactions())
		equal(t, told(t, s, 4, true), "commit_prepared g", "rollback_prepared h", "commit_prepared early", "rollback_prepared early")
		nothingMore(t, s)
		finish(t, s)
		if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != 0x750 {
			t.Errorf("confirmed %s", slot.ConfirmedFlush)
		}
	}, playing([]fakewal.Frame{
		{Payload: fakewal.Prepare(0x200, 0x250, then, 7, "g")},
		{Payload: fakewal.CommitPrepared(0x300, 0x350, then, 7, "g")},
		{Payload: fakewal.RollbackPrepared(0x350, 0x450, then, then, 8, "h")},
		{Payload: fakewal.Prepare(0x80, 0x90, then, 9, "early")},
		{Payload: fakewal.CommitPrepared(0x600, 0x650, then, 9, "early")},
		{Payload: fakewal.RollbackPrepared(0x90, 0x750, then, then, 10, "early")},
	}))
}

// A transaction that was delivered before and is played again delivers nothing, so nothing makes it wait; all the same it stops
// when it is asked to.
func TestLongPlayIsAttendedTo(t *testing.T) {
	long := fakewal.Relation{OID: table.OID, Schema: "public", Name: "t", Columns: []fakewal.Column{{Name: "id", Key: true, Type: 99999, Mod: -1}}}
	part := block(7, 7, true)[:1]
	part = append(part, fakewal.Frame{Payload: fakewal.InStream(7, long.Encode())})
	for range 2000 {
		part = append(part, fakewal.Frame{Start: 0x180, Payload: fakewal.InStream(7, fakewal.Insert(table.OID, strings.Repeat("x", 1000)))})
	}
	part = append(part, fakewal.Frame{Payload: fakewal.StreamStop()})
	log := slices.Concat(part, streamCommit(7, 0x300))
	bubble(t, func(t *testing.T, srv *fakewal.Server) {
		ctx, cancel := context.WithCancel(t.Context())
		described := 0
		s, err := walchan.Subscribe(ctx, fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure), walchan.WithStreaming(),
			walchan.WithLogger(slog.New(calling(func(message string) {
				// The type cannot be looked up, which is logged at the first message that is played.
				if strings.HasPrefix(message, "types of a table") {
					if described++; described == 2 {
						cancel()
					}
				}
			}))))
		if err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			<-s.C()
		}
		srv.CloseConns()
		for m := range s.C() {
			t.Errorf("there came %v", m)
		}
		s.Close()
		if st := s.Stats(); described != 2 || st.Received != 0x100 {
			t.Errorf("described %d times, and went on to %s", described, st.Received)
		}
	}, playing(log))
}

// calling is a log handler that calls a function.
type calling func(message string)

func (c calling) Enabled(context.Context, slog.Level) bool { return true }
func (c calling) Handle(_ context.Context, r slog.Record) error {
	c(r.Message)
	return nil
}
func (c calling) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c calling) WithGroup(string) slog.Handler      { return c }

// Where a message stands in its transaction does not depend on what is delivered of that.
func TestOrdinalsOfAPreparedTransaction(t *testing.T) {
	log := []fakewal.Frame{
		{Payload: fakewal.BeginPrepare(0x80, 0x90, then, 9, "late")}, {Payload: table.Encode()},
		{Payload: fakewal.Insert(table.OID, "a")}, {Payload: fakewal.Insert(table.OID, "b")},
		{Payload: fakewal.Prepare(0x80, 0x90, then, 9, "late")}, {Payload: fakewal.CommitPrepared(0x200, 0x250, then, 9, "late")},
		{Payload: fakewal.BeginPrepare(0x300, 0x350, then, 10, "g")}, {Payload: fakewal.Insert(table.OID, "c")},
		{Payload: fakewal.Prepare(0x300, 0x350, then, 10, "g")}, {Payload: fakewal.CommitPrepared(0x400, 0x450, then, 10, "g")},
		{Payload: fakewal.RollbackPrepared(0x90, 0x550, then, then, 11, "h")},
	}
	want := map[bool][]string{
		false: {"insert 0/200:2", "insert 0/200:3", "commit_prepared 0/200:5", "insert 0/300:2", "commit_prepared 0/400:1", "rollback_prepared 0/550:0"},
		true: {"begin 0/200:1", "insert 0/200:2", "insert 0/200:3", "prepare 0/200:4", "commit_prepared 0/200:5",
			"begin 0/300:1", "insert 0/300:2", "prepare 0/300:3", "commit_prepared 0/400:1", "rollback_prepared 0/550:0"},
	}
	for _, transactions := range []bool{false, true} {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			opts := []walchan.Option{walchan.WithTwoPhase()}
			if transactions {
				opts = append(opts, walchan.WithTransactions())
			}
			s := subscribeTo(t, srv, opts...)
			var got []string
			for range want[transactions] {
				m := <-s.C()
				p, _ := m.Position()
				got = append(got, fmt.Sprint(m.Kind, " ", p))
				s.Ack(m)
			}
			equal(t, got, want[transactions]...)
			finish(t, s)
		}, playing(log))
	}
}

// Delivered in part, sent differently after the reconnect: again as a whole, also where one of the two was sent in blocks.
func TestStreamedTransactionSentDifferentlyComesAgainWhole(t *testing.T) {
	streamed := playing(block(2, 2, true, "a", "b", "x"), streamCommit(2, 0x300))
	whole := func(rows ...any) fakewal.Script {
		x := tx(2, 0x300, rows...)
		x.At = then // as in blocks: it is the same transaction
		return playing(x.Frames())
	}
	ordinary := whole("a", "c")
	for name, scripts := range map[string][]fakewal.Script{
		"first in blocks":     {streamed, ordinary},
		"then in blocks":      {whole("a", "b", "x"), playing(block(2, 2, true, "a", "c"), streamCommit(2, 0x300))},
		"in blocks each time": {streamed, playing(block(2, 2, true, "a", "c"), streamCommit(2, 0x300))},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv, walchan.WithStreaming(), walchan.WithBuffer(1, 1<<20))
				got := receive(t, s, 1, false)
				time.Sleep(time.Minute) // the connection is lost while the next message waits
				got = append(got, receive(t, s, 3, false)...)
				if want := []string{"2:a", "2:b", "2:a again", "2:c again"}; !slices.Equal(got, want) {
					t.Errorf("got  %v\nwant %v", got, want)
				}
				nothingMore(t, s)
				finish(t, s)
			}, func(c *fakewal.Conn) error {
				if err := scripts[0](c); err != nil {
					return err
				}
				time.Sleep(20 * time.Second)
				c.Reset()
				return nil
			}, scripts[1])
		})
	}
}

func TestUnexpectedBlocksEndTheStream(t *testing.T) {
	for name, c := range map[string]struct {
		frames []fakewal.Frame
		want   string
	}{
		"no first block":  {block(7, 7, false, "x"), "first block has not come"},
		"commit of none":  {streamCommit(7, 0x300), "first block has not come"},
		"prepare of none": {[]fakewal.Frame{{Payload: fakewal.StreamPrepare(0x300, 0x330, then, 7, "g")}}, "first block has not come"},
		"late prepare of none": {[]fakewal.Frame{{Payload: fakewal.StreamPrepare(0x30, 0x33, then, 7, "g")}},
			"first block has not come"},
		"two first blocks": {slices.Concat(block(7, 7, true, "x"), block(7, 7, true, "x")), "second beginning"},
		"in a transaction": {append(tx(2, 0x300, "x").Frames()[:1], block(7, 7, true, "x")...), "inside of another transaction"},
		"in a block":       {append(block(7, 7, true)[:1], tx(2, 0x300, "x").Frames()...), "not expected in a block"},
		"end of no block":  {[]fakewal.Frame{{Payload: fakewal.StreamStop()}}, `message 'E'`},
		"garbage":          {append(block(7, 7, true)[:1], fakewal.Frame{Payload: []byte{'I', 0, 0}}), "truncated at byte 1 of 3"},
		"garbage, found later": {slices.Concat(block(7, 7, true)[:1], []fakewal.Frame{{Payload: []byte{'I', 0, 0, 0, 7, 1, 2, 3}},
			{Payload: fakewal.StreamStop()}}, streamCommit(7, 0x300)), "truncated at byte 1 of 4"},
		"garbage in a late one": {[]fakewal.Frame{{Payload: fakewal.BeginPrepare(0x30, 0x33, then, 7, "g")}, {Payload: []byte{'I', 0, 0}}},
			"truncated at byte 1 of 3"},
		"two transactions in one": {append(tx(2, 0x300, "x").Frames()[:1], tx(3, 0x400, "x").Frames()...), "begin inside of a transaction"},
		"rolled back inside": {append(tx(2, 0x300, "x").Frames()[:1],
			fakewal.Frame{Payload: fakewal.RollbackPrepared(0x30, 0x333, then, then, 7, "g")}), "inside of a transaction"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				s := subscribeTo(t, srv, walchan.WithStreaming())
				receive(t, s, 1, true)
				if m, ok := <-s.C(); ok {
					t.Errorf("there came %v", m)
				}
				if err := s.Err(); !errors.Is(err, walchan.ErrProtocol) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error is %v", err)
				}
				s.Close()
				if slot, _ := srv.Slot("p"); slot.ConfirmedFlush > 0x2b0 {
					t.Errorf("confirmed %s", slot.ConfirmedFlush)
				}
			}, playing(tx(1, 0x200, "a").Frames(), c.frames))
		})
	}
}

func TestOptionsThatExcludeOneAnother(t *testing.T) {
	publication := walchan.WithPublication("p")
	for _, c := range []struct {
		opts []walchan.Option
		want []string // each in the text
	}{
		{[]walchan.Option{walchan.WithPlugin("test_decoding", nil), walchan.WithStreaming(), walchan.WithTwoPhase(), walchan.WithBinary()},
			[]string{"WithStreaming belongs to pgoutput, not to the plugin test_decoding", "WithTwoPhase belongs", "WithBinary belongs"}},
		{[]walchan.Option{publication, walchan.WithStreaming(), walchan.WithPluginOption("streaming", "off")},
			[]string{`WithStreaming and WithPluginOption("streaming", "off") exclude one another`}},
		{[]walchan.Option{publication, walchan.WithTwoPhase(), walchan.WithPluginOption("two_phase", "F"), walchan.WithBinary(), walchan.WithPluginOption("binary", "0")},
			[]string{`WithTwoPhase and WithPluginOption("two_phase", "F")`, `WithBinary and WithPluginOption("binary", "0")`}},
		{[]walchan.Option{publication, walchan.WithTwoPhase(), walchan.WithPluginOption("proto_version", "2")},
			[]string{`two-phase and WithPluginOption("proto_version", "2") exclude one another: it needs version 3`}},
		{[]walchan.Option{publication, walchan.WithPluginOption("streaming", "parallel"), walchan.WithPluginOption("proto_version", "1")},
			[]string{"needs version 2", "needs version 4"}},
		{[]walchan.Option{publication, walchan.WithSpool(1<<20, "")}, []string{"WithSpool has nothing to keep without WithStreaming or WithTwoPhase"}},
		{[]walchan.Option{publication, walchan.WithStreaming(), walchan.WithSpool(1<<20-1, "/tmp")}, []string{"must be at least 1 MiB"}},
		{[]walchan.Option{publication, walchan.WithStreaming(), walchan.WithSpool(1<<20, filepath.Join(t.TempDir(), "missing"))},
			[]string{"WithSpool: a temporary file cannot be made", "missing"}},
	} {
		_, err := walchan.Subscribe(t.Context(), fakewal.DSN, c.opts...)
		if !errors.Is(err, walchan.ErrOptions) {
			t.Errorf("%v: error is %v", c.want, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in %v", want, err)
			}
		}
	}
}

// What is asked of pgoutput, and of a server that cannot do it nothing at all.
func TestProtocolVersions(t *testing.T) {
	for _, c := range []struct {
		opts  []walchan.Option
		args  string // of pgoutput
		needs string // the version; "": 14
	}{
		{nil, "proto_version 1", ""},
		{[]walchan.Option{walchan.WithBinary()}, "proto_version 1 binary on", ""},
		{[]walchan.Option{walchan.WithStreaming()}, "proto_version 2 streaming on", ""},
		{[]walchan.Option{walchan.WithTwoPhase()}, "proto_version 3 two_phase on", "two-phase needs PostgreSQL 15 or later"},
		{[]walchan.Option{walchan.WithTwoPhase(), walchan.WithStreaming(), walchan.WithBinary()}, "proto_version 3 streaming on two_phase on binary on",
			"two-phase needs PostgreSQL 15 or later"},
		{[]walchan.Option{walchan.WithPluginOption("streaming", "Parallel")}, "proto_version 4 streaming Parallel", "streaming = parallel needs PostgreSQL 16 or later"},
		{[]walchan.Option{walchan.WithPluginOption("streaming", "parallel"), walchan.WithTwoPhase()}, "proto_version 4 streaming parallel two_phase on",
			"two-phase needs PostgreSQL 15 or later, streaming = parallel needs PostgreSQL 16 or later"},
		{[]walchan.Option{walchan.WithPluginOption("streaming", "f"), walchan.WithPluginOption("two_phase", "no")}, "proto_version 1 streaming f two_phase no", ""},
		{[]walchan.Option{walchan.WithStreaming(), walchan.WithPluginOption("proto_version", "4")}, "proto_version 4 streaming on", ""},
	} {
		for _, version := range []string{"14.23 (Debian 14.23-1)", "15.18", "16.14", "18.4"} {
			bubble(t, func(t *testing.T, srv *fakewal.Server) {
				srv.Update(func(s *fakewal.State) { s.Version = version })
				opts := append([]walchan.Option{walchan.WithSlot("new"), walchan.WithCreateSlot(), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure)}, c.opts...)
				s, err := walchan.Subscribe(t.Context(), fakewal.DSN, opts...)
				tooOld := ""
				for _, need := range []string{"14", "15", "16"} {
					if strings.Contains(c.needs, need) && version[:2] < need {
						tooOld = need
					}
				}
				if tooOld != "" {
					if !errors.Is(err, walchan.ErrServerVersion) || !strings.Contains(err.Error(), tooOld+" or later; this is "+version[:5]) {
						t.Errorf("%s on %s: error is %v", c.args, version, err)
					}
					if _, made := srv.Slot("new"); made {
						t.Errorf("%s on %s: a slot was made", c.args, version)
					}
					return
				}
				if err != nil {
					t.Errorf("%s on %s: %v", c.args, version, err)
					return
				}
				for name, value := range srv.Starts()[0].Options {
					if name != "publication_names" && name != "messages" && !strings.Contains(c.args, name+" "+value) {
						t.Errorf("%s on %s: %s is %s", c.args, version, name, value)
					}
				}
				if n := 2 + len(strings.Fields(c.args))/2; len(srv.Starts()[0].Options) != n {
					t.Errorf("%s on %s: asked for %v", c.args, version, srv.Starts()[0].Options)
				}
				if slot, _ := srv.Slot("new"); slot.TwoPhase != strings.Contains(c.args, "two_phase on") {
					t.Errorf("%s on %s: two-phase of the slot is %v", c.args, version, slot.TwoPhase)
				}
				finish(t, s)
			}, nothing)
		}
	}
}

// A slot that has two-phase on sends prepared transactions to anybody.
func TestSlotWithTwoPhaseNeedsTheOption(t *testing.T) {
	for version, refused := range map[string]bool{"14.23": false, "15.18": true} {
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			srv.Update(func(s *fakewal.State) { s.Version = version; s.Slots["p"].TwoPhase = true })
			s, err := walchan.Subscribe(t.Context(), fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure))
			if !refused {
				if err != nil {
					t.Error(err)
					return
				}
				finish(t, s)
			} else if !errors.Is(err, walchan.ErrSlotMismatch) || !strings.Contains(err.Error(), "WithTwoPhase") {
				t.Errorf("error is %v", err)
			}
		}, nothing)
	}
}
