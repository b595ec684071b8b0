package walchantest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/walchantest"
)

var items = walchantest.NewTable("items", "id int primary key", "name text")

func subscribe(t *testing.T, srv *walchantest.Server, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	stream, err := srv.Subscribe(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return stream
}

func TestStreamEndsBehindTheLastEntry(t *testing.T) {
	srv := walchantest.NewServer(
		walchantest.Transaction{XID: 7, Origin: "elsewhere", CommitTime: time.Unix(1, 0), Changes: []walchantest.Change{
			items.Insert(1, "a"),
			walchantest.LogicalMessage(true, "p", "in"),
		}},
		walchantest.LogicalMessage(false, "p", "out"),
		walchantest.Truncate(items, walchantest.NewTable("s.other")).Cascade().RestartIdentity(),
	)
	stream := subscribe(t, srv, walchan.WithTransactions())
	var got []string
	for m := range stream.C() {
		got = append(got, m.String())
		if m.Tx != nil && m.Tx.XID == 7 && (m.Tx.Origin != "elsewhere" || m.Tx.CommitTime.Unix() != 1) {
			t.Errorf("transaction is %+v", m.Tx)
		}
		if tables, cascade, restart := m.Truncated(); tables != nil && (!cascade || !restart) {
			t.Error("TRUNCATE without its options")
		}
		stream.Ack(m)
	}
	if err := errors.Join(stream.Err(), stream.Close()); err != nil {
		t.Error(err)
	}
	want := []string{
		"begin xid 7 at 0/1000180:1",
		"insert public.items xid 7 at 0/1000180:2",
		"message xid 7 at 0/1000180:3",
		"commit xid 7 at 0/1000180:4",
		"message at 0/1000230:0",
		"begin xid 702 at 0/1000330:1",
		"truncate public.items, s.other xid 702 at 0/1000330:2",
		"commit xid 702 at 0/1000330:3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("messages:\n%s", strings.Join(got, "\n"))
	}
	if srv.Confirmed() != 3 || srv.Unacknowledged() != nil {
		t.Errorf("%d entries are confirmed, messages %v not acknowledged", srv.Confirmed(), srv.Unacknowledged())
	}
}

func TestAcknowledging(t *testing.T) {
	srv := walchantest.NewServer(
		items.Insert(0, "a"),
		walchantest.Tx(items.Insert(1, "b"), items.Insert(2, "c"), items.Insert(3, "d")),
		items.Insert(4, "e"),
	)
	stream := subscribe(t, srv)
	ids := func(stream *walchan.Stream, ack func(id string, m walchan.Message)) (ids []string) {
		for m := range stream.C() {
			id := m.New().Text(0)
			ids = append(ids, id)
			ack(id, m)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		return ids
	}
	all := ids(stream, func(id string, m walchan.Message) {
		if id != "2" {
			stream.Ack(m)
		}
	})
	if !slices.Equal(all, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("first %v", all)
	}
	if u := srv.Unacknowledged(); !slices.Equal(u, []int{2}) || srv.Confirmed() != 1 {
		t.Errorf("%d entries are confirmed, messages %v not acknowledged", srv.Confirmed(), u)
	}

	// What is started again gets what was not confirmed, again.
	stream = subscribe(t, srv)
	rest := ids(stream, func(id string, m walchan.Message) {
		if id == "4" {
			stream.AckThrough(m)
		}
	})
	if !slices.Equal(rest, all[1:]) {
		t.Errorf("then %v", rest)
	}
	if u := srv.Unacknowledged(); u != nil || srv.Confirmed() != 3 {
		t.Errorf("%d entries are confirmed, messages %v not acknowledged", srv.Confirmed(), u)
	}

	// And then nothing.
	stream = subscribe(t, srv)
	if none := ids(stream, func(string, walchan.Message) {}); none != nil {
		t.Errorf("at last %v", none)
	}
}

// A stream whose consumer does not acknowledge waits for the drain timeout, but not if the server is closed.
// A process that has everything begins, and ends at once, however long its checkpoint takes to be read.
func TestSecondProcessHasNothingToDo(t *testing.T) {
	srv := walchantest.NewServer(items.Insert(0, "a"), items.Insert(1, "b"))
	t.Cleanup(srv.Close)
	var stored walchan.Checkpoint
	for process := range 2 {
		stream, err := srv.Subscribe(t.Context(), walchan.WithFrom(0x1000000), walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) {
			time.Sleep(50 * time.Millisecond) // the server hears ten statuses meanwhile
			return stored, nil
		}))
		if err != nil {
			t.Fatalf("process %d: %v", process, err)
		}
		for m := range stream.C() {
			stored = m.Checkpoint()
			stream.Ack(m)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := srv.Confirmed(); n != 2 {
		t.Errorf("%d entries are confirmed", n)
	}
}

func TestCloseWithoutAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walchantest.NewServer(items.Insert(1, "a"))
		stream, err := srv.Subscribe(t.Context(), walchan.WithDrainTimeout(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for range stream.C() {
		}
		began := time.Now()
		srv.Close()
		if d := time.Since(began); d > time.Minute {
			t.Errorf("Close took %v", d)
		}
		if u := srv.Unacknowledged(); !slices.Equal(u, []int{0}) || srv.Confirmed() != 0 {
			t.Errorf("%d entries are confirmed, messages %v not acknowledged", srv.Confirmed(), u)
		}
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		srv := walchantest.NewServer(items.Insert(1, "a"), walchantest.Idle())
		defer srv.Close()
		stream, err := srv.Subscribe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stream.Ack(<-stream.C())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s := stream.Stats(); s.State != walchan.StateIdle || s.Unacked != 0 || s.Delivered != 1 {
			t.Errorf("%+v", s)
		}
		select {
		case m, ok := <-stream.C():
			t.Errorf("%v %v", m, ok)
		default:
		}
		cancel()
		if _, ok := <-stream.C(); ok || stream.Err() != nil {
			t.Errorf("closed: %v, error: %v", !ok, stream.Err())
		}
	})
}

func TestFail(t *testing.T) {
	for _, err := range []error{walchan.ErrDiverged, errors.New("of no kind")} {
		srv := walchantest.NewServer(items.Insert(1, "a"), items.Insert(2, "b"), walchantest.Fail(err))
		stream := subscribe(t, srv)
		n := 0
		for m := range stream.C() {
			n++
			stream.Ack(m)
		}
		if n != 2 || !errors.Is(stream.Err(), err) {
			t.Errorf("%d messages, then %v", n, stream.Err())
		}
	}
}

// Two tables of one name are the table before and after an ALTER TABLE.
func TestAlteredTable(t *testing.T) {
	altered := walchantest.NewTable("items", "id int primary key", "name text", "more int")
	m := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"), altered.Insert(3, "c", 4))
	if m[0].Relation != m[1].Relation || m[1].Relation == m[2].Relation || m[1].Relation.OID != m[2].Relation.OID || m[2].New().Len() != 3 {
		t.Errorf("%v", m)
	}
}

func TestMistakesPanic(t *testing.T) {
	keyless := walchantest.NewTable("log", "line text")
	full := walchantest.NewTable("f", "id int primary key", "name text").ReplicaIdentityFull()
	for _, c := range []struct {
		want string
		f    func()
	}{
		{`column "status mood": no built-in type "mood"`, func() { walchantest.NewTable("t", "status mood") }},
		{"1 values for the 2 columns of public.items", func() { items.Insert(1) }},
		{"Unchanged is for an Update", func() { items.Insert(1, walchantest.Unchanged) }},
		{"column id of public.items", func() { items.Insert(struct{}{}, "") }},
		{"From is for an Update", func() { items.Insert(1, "a").From(2) }},
		{"1 values for the 2 columns of public.f", func() { full.Delete(1) }},
		{"an old row of public.items is whole", func() { items.Delete(1, walchantest.Unchanged) }},
		{"no replica identity", func() { keyless.Delete("x") }},
		{"no replica identity", func() { keyless.Update("x") }},
		{"an Update needs From", func() { walchantest.NewServer(full.Update(1, "a")) }},
		{"cannot be part of a transaction", func() { walchantest.NewServer(walchantest.Tx(walchantest.LogicalMessage(false, "", ""))) }},
	} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); !strings.HasPrefix(r, "walchantest: ") || !strings.Contains(r, c.want) {
					t.Errorf("%q, without %q", r, c.want)
				}
			}()
			c.f()
		}()
	}
}

func TestValues(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 789000, time.FixedZone("", 3600))
	table := walchantest.NewTable("v", "a bigint", "b numeric(10, 2)", "c boolean", "d text[]", "e jsonb", "f timestamptz",
		"g timestamp with time zone", "h bytea", "i double precision", "j date", "k character varying(3)", "l int[]", "m text", "n uuid")
	m := walchantest.Messages(table.Insert(int8(1), "2.50", true, []string{"x", `"`}, map[string]any{"k": 1}, at, "2026-02-03 03:05:06+00",
		[]byte{1, 255}, 0.1, at, "abc", []int{1, 2}, nil, [16]byte{15: 1}))
	b, err := m[0].New().AppendJSON(nil)
	const want = `{"a":1,"b":2.50,"c":true,"d":["x","\""],"e":{"k":1},"f":"2026-02-03T03:05:06.000789+00:00",` +
		`"g":"2026-02-03T03:05:06+00:00","h":"\\x01ff","i":0.1,"j":"2026-02-03","k":"abc","l":[1,2],"m":null,"n":"00000000-0000-0000-0000-000000000001"}`
	if err != nil || string(b) != want {
		t.Errorf("%v\n%s, not\n%s", err, b, want)
	}
	values, err := m[0].New().Map()
	if err != nil || len(values) != 14 || !slices.Contains(slices.Collect(maps.Keys(values)), "n") {
		t.Errorf("%v %v", values, err)
	}
}
