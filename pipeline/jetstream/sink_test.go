package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/encode"
	"github.com/walchan/walchan/pipeline/jetstream"
	"github.com/walchan/walchan/walchantest"
)

// finish says that nothing follows.
const finish = "SELECT pg_logical_emit_message(true, 'finish', '')"

// publish publishes what the stream delivers, until the message finish.
func publish(ctx context.Context, stream *walchan.Stream, sink pipeline.Sink[walchan.Message]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := pipeline.New(ctx, stream, time.Minute)
	last := pipeline.Filter(g, g.Source(), func(m walchan.Message) bool {
		if m.Prefix() == "finish" {
			cancel()
		}
		return true
	})
	pipeline.Into(g, pipeline.Batch(g, last, pipeline.Limit{Items: 200, Wait: 5 * time.Millisecond}), sink)
	return g.Wait()
}

// What PostgreSQL's tables go through is in the stream, each change under its table's subject.
func TestChangesOfPostgreSQL(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, `CREATE TABLE items (id int PRIMARY KEY, v text); CREATE SCHEMA "my shop"; CREATE TABLE "my shop"."a.b*%>é" (id int PRIMARY KEY)`,
		"CREATE PUBLICATION p FOR ALL TABLES", "INSERT INTO items VALUES (0, 'before')")
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink, err := jetstream.Open(t.Context(), nc, name, jetstream.WithCreateStream(nil))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithSnapshot(), walchan.WithTransactions(),
		walchan.WithCheckpointFrom(sink.Checkpoint))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- publish(t.Context(), stream, sink) }()
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND NOT temporary AND active")
	db.Exec(t, "INSERT INTO items VALUES (1, 'a'), (2, NULL)", "UPDATE items SET id = 3 WHERE id = 1; DELETE FROM items WHERE id = 2",
		`INSERT INTO "my shop"."a.b*%>é" VALUES (7)`, `TRUNCATE items, "my shop"."a.b*%>é"`, finish)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	const strange = "my%20shop.a%2Eb%2A%25%3Eé"
	want := []string{"snapshot", "public.items r map[id:0 v:before]", "snapshot", "public.items c map[id:1 v:a]", "public.items c map[id:2 v:<nil>]",
		"public.items u map[id:3 v:a]", "public.items d map[]", strange + " c map[id:7]", "public.items t map[]", strange + " t map[]", "message m map[]"}
	all := without(t, stored(t, nc, name))
	var previous walchan.Checkpoint
	seen := map[string]bool{}
	for i, m := range all {
		what, _ := strings.CutPrefix(m.Subject(), name+".")
		if what != "snapshot" {
			e := parse(t, m)
			what += fmt.Sprintf(" %s %v", e.Op, e.After)
			if e.Source.DB != db.Name {
				t.Errorf("message %d is of the database %q", i, e.Source.DB)
			}
		}
		if i >= len(want) || what != want[i] {
			t.Errorf("message %d is %s %s", i, what, m.Data())
		}
		c, id := checkpoint(t, m.Headers()), m.Headers().Get("Nats-Msg-Id")
		if n, ok := c.Compare(previous); n < 0 || !ok || c.IsZero() != (i < 2) {
			t.Errorf("checkpoint %v follows %v", c, previous)
		}
		previous = c
		if i < 3 {
			continue // no positions
		}
		if seen[id] || !strings.HasPrefix(id, stream.Source().SystemID+":") {
			t.Errorf("message %d has the id %q", i, id)
		}
		seen[id] = true
	}
	if len(all) != len(want) {
		t.Errorf("%d messages, want %d", len(all), len(want))
	}
}

// Every later process goes on after what the stream has, also where the batches of the one before were left out.
func TestLaterProcesses(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE items (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR ALL TABLES")
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	for round := range 4 {
		sink := open(t, nc, name)
		stream, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithPublication("p"), walchan.WithCreateSlot(),
			walchan.WithCheckpointFrom(sink.Checkpoint), walchan.WithLogger(quiet))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- publish(t.Context(), stream, sink) }()
		db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND NOT temporary AND active")
		db.Exec(t, fmt.Sprintf("INSERT INTO items VALUES (%d, 'left out')", 100+round), fmt.Sprintf("INSERT INTO items VALUES (%d, 'a')", round), finish)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	if got := ids(t, without(t, stored(t, nc, name))); got != "c100 c0 m<nil> c101 c1 m<nil> c102 c2 m<nil> c103 c3 m<nil>" {
		t.Errorf("stored: %s", got)
	}
	_, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot("another_"+db.Name), walchan.WithPublication("p"), walchan.WithCreateSlot(),
		walchan.WithCheckpointFrom(open(t, nc, name).Checkpoint), walchan.WithLogger(quiet))
	if !errors.Is(err, walchan.ErrCheckpoint) || !strings.Contains(err.Error(), `slot "another_`+db.Name) {
		t.Errorf("another slot: %v", err)
	}
}

// A checkpoint without changes is published once.
func TestProgress(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"))
	for range 2 {
		if err := sink.WriteCheckpoint(t.Context(), nil, msgs[0].Checkpoint()); err != nil {
			t.Fatal(err)
		}
	}
	all := stored(t, nc, name)
	if len(all) != 1 || all[0].Subject() != name+".progress" || checkpoint(t, all[0].Headers()) != msgs[0].Checkpoint() {
		t.Errorf("stored: %v", all)
	}
	// The last message of a batch has the batch's checkpoint, also where that is a later one.
	if err := sink.WriteCheckpoint(t.Context(), walchantest.Messages(items.Insert(0, "a"), items.Insert(1, "a"))[1:], msgs[1].Checkpoint()); err != nil {
		t.Fatal(err)
	}
	c, err := open(t, nc, name).Checkpoint(t.Context())
	if err != nil || c != msgs[1].Checkpoint() {
		t.Errorf("the next process reads %v: %v", c, err)
	}
}

// The headers of an older version say how far it was.
func TestPositionOfAnOlderVersion(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	open(t, nc, name)
	msgs := walchantest.Messages(items.Insert(1, "a"), walchantest.Truncate(items, walchantest.NewTable("others", "id int primary key")))
	truncate := msgs[1]
	p, _ := truncate.Position()
	h := nats.Header{"Walchan-Source": {"77/d%2Fb/s"}, "Walchan-Position": {p.String()}}
	if _, err := api(t, nc).PublishMsg(t.Context(), &nats.Msg{Subject: name + ".public.items", Header: h}); err != nil {
		t.Fatal(err)
	}
	sink := open(t, nc, name)
	c, err := sink.Checkpoint(t.Context())
	if err != nil || c.Source() != (walchan.Source{SystemID: "77", Database: "d/b", Slot: "s"}) || c.Position() != (walchan.Position{Commit: p.Commit, Ordinal: p.Ordinal - 1}) {
		t.Errorf("the checkpoint is %v: %v", c, err)
	}
}

// What was published is left out, by this sink and by a later one, though the server does not recognise it any more. With a
// window of 1 and with a large one.
func TestPublishedOnce(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	other := walchantest.NewTable("others", "id int primary key")
	msgs := walchantest.Messages(items.Insert(1, "a"), walchantest.Tx(items.Insert(2, "b"), items.Update(2, "c")), walchantest.Truncate(items, other),
		walchantest.LogicalMessage(false, "p", "x"), items.Delete(2))
	sink := open(t, nc, name, jetstream.WithWindow(1))
	write(t, sink, msgs[:2])
	write(t, sink, msgs[:4])
	time.Sleep(300 * time.Millisecond) // the server forgets
	write(t, sink, msgs[:4])
	for range 2 {
		sink = open(t, nc, name)
		write(t, sink, msgs)
	}
	if got := ids(t, stored(t, nc, name)); got != "c1 c2 u2 t<nil> t<nil> m<nil> d2" {
		t.Errorf("stored: %s", got)
	}
}

// A sink that ended between the two messages of one TRUNCATE goes on with the second one.
func TestTruncateInParts(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	msgs := walchantest.Messages(walchantest.Truncate(items, walchantest.NewTable("others", "id int primary key")), items.Insert(1, "a"))
	write(t, sink, msgs)
	all := stored(t, nc, name)
	js := api(t, nc)
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	// The stream as it was after the first part.
	if err := js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), stream.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	h := all[0].Headers()
	h.Del(natsjs.ExpectedLastSeqHeader)
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: all[0].Subject(), Header: h, Data: all[0].Data()}); err != nil {
		t.Fatal(err)
	}
	write(t, open(t, nc, name), msgs)
	var subjects []string
	for _, m := range stored(t, nc, name) {
		subjects = append(subjects, strings.TrimPrefix(m.Subject(), name+".public."))
	}
	if got := strings.Join(subjects, " "); got != "items others items" {
		t.Errorf("stored: %s", got)
	}
}

// Two sinks of one slot, as a process that hangs and the one that has taken over: what one publishes the other one does not.
func TestTwoSinks(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"), items.Insert(3, "c"))
	first, second := open(t, nc, name), open(t, nc, name)
	if _, err := second.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, first, msgs[:2])
	if err := second.Write(t.Context(), msgs); err == nil {
		t.Error("the second sink has noticed nothing")
	}
	write(t, second, msgs)
	if err := first.Write(t.Context(), msgs[2:]); err == nil {
		t.Error("the first sink has noticed nothing")
	}
	write(t, first, msgs[2:])
	if got := ids(t, stored(t, nc, name)); got != "c1 c2 c3" {
		t.Errorf("stored: %s", got)
	}
}

// A transaction that is sent differently after a reconnect is published again, each time, and no more than that.
func TestRedelivered(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	msgs := walchantest.Messages(walchantest.Tx(items.Insert(1, "a"), items.Insert(2, "b")), items.Insert(3, "c"))
	again := func() (all []walchan.Message) {
		tx := *msgs[0].Tx
		tx.Redelivered = true
		for _, m := range msgs[:2] {
			m.Tx = &tx
			all = append(all, m)
		}
		return all
	}
	write(t, sink, msgs[:1])
	a, b := again(), again()
	write(t, sink, a[:1])
	write(t, sink, a)
	write(t, sink, b[:1])
	write(t, sink, append(b, msgs[2]))
	write(t, sink, append(b, msgs[2]))
	write(t, open(t, nc, name), msgs) // a process that follows is sent it as it would be anyway
	if got := ids(t, stored(t, nc, name)); got != "c1 c1 c2 c1 c2 c3" {
		t.Errorf("stored: %s", got)
	}
}

func TestStreamThatWillNotDo(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	if _, err := jetstream.Open(t.Context(), nc, name); !errors.Is(err, jetstream.ErrStream) || !strings.Contains(err.Error(), name) {
		t.Errorf("no stream: %v", err)
	}
	queue := jetstream.WithCreateStream(func(c *natsjs.StreamConfig) { c.Retention = natsjs.WorkQueuePolicy })
	if _, err := jetstream.Open(t.Context(), nc, name, queue); !errors.Is(err, jetstream.ErrStream) {
		t.Errorf("a work queue: %v", err)
	}
	api(t, nc).DeleteStream(t.Context(), name)
	sink := open(t, nc, name)
	if _, err := api(t, nc).Publish(t.Context(), name+".x", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, nc, name).Checkpoint(t.Context()); !errors.Is(err, jetstream.ErrForeign) {
		t.Errorf("somebody else's stream: %v", err)
	}
	msgs := walchantest.Messages(items.Insert(1, "a"))
	if err := sink.Write(t.Context(), msgs); err == nil {
		t.Error("somebody else's message went unnoticed")
	}
	if err := sink.Write(t.Context(), msgs); !errors.Is(err, jetstream.ErrForeign) {
		t.Errorf("somebody else has published: %v", err)
	}
}

// The last message takes the checkpoint along when it is removed. A sink that lives knows it. Another one refuses, unless it has
// WithRemoved.
func TestLastMessageRemoved(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"), items.Insert(3, "c"))
	write(t, sink, msgs[:1])
	stream, err := api(t, nc).Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sink.Write(ctx, msgs[:2]); err == nil {
		t.Fatal("no error")
	}
	time.Sleep(300 * time.Millisecond) // the server forgets
	write(t, sink, msgs[:2])
	if got := ids(t, stored(t, nc, name)); got != "c2" {
		t.Errorf("stored: %s", got)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	for range 2 {
		if _, err := open(t, nc, name).Checkpoint(t.Context()); !errors.Is(err, walchan.ErrCheckpoint) || !strings.Contains(err.Error(), "WithRemoved") {
			t.Errorf("error is %v", err)
		}
	}
	var log bytes.Buffer
	write(t, open(t, nc, name, jetstream.WithRemoved(), jetstream.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))), msgs[1:])
	if got := ids(t, stored(t, nc, name)); got != "c2 c3" || !strings.Contains(log.String(), "there again") {
		t.Errorf("stored: %s; log: %s", got, &log)
	}
}

// A stream that was confirmed and is gone is an error for as long as the sink lives.
func TestLostStream(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name)
	msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, "b"))
	write(t, sink, msgs[:1])
	api(t, nc).DeleteStream(t.Context(), name)
	if err := sink.Write(t.Context(), msgs); err == nil {
		t.Error("published where no stream is")
	}
	open(t, nc, name)
	for range 2 {
		if err := sink.Write(t.Context(), msgs); !errors.Is(err, jetstream.ErrLost) {
			t.Errorf("error is %v", err)
		}
	}
}

// A message that is too large for the stream, or for the server, is refused by itself.
func TestRefused(t *testing.T) {
	for what, size := range map[string]int{"stream": 5000, "server": 2 << 20} {
		t.Run(what, func(t *testing.T) {
			nc := dial(t, serve(t))
			name := streamName(t, nc)
			sink := open(t, nc, name, jetstream.WithCreateStream(func(c *natsjs.StreamConfig) { c.MaxMsgSize = 4000 }), jetstream.WithWindow(2))
			msgs := walchantest.Messages(items.Insert(1, "a"), items.Insert(2, strings.Repeat("x", size)), items.Insert(3, "c"), items.Insert(4, "d"), items.Insert(5, "e"))
			var refused *pipeline.RefusedError
			if err := sink.Write(t.Context(), msgs); !errors.As(err, &refused) || refused.Item != 1 || strings.Contains(err.Error(), "xx") {
				t.Fatalf("error is %v", err)
			}
			write(t, pipeline.Skip(sink, quiet), msgs)
			if got := ids(t, stored(t, nc, name)); got != "c1 c3 c4 c5" {
				t.Errorf("stored: %s", got)
			}
		})
	}
}

func TestEncoder(t *testing.T) {
	nc := dial(t, serve(t))
	name := streamName(t, nc)
	sink := open(t, nc, name, jetstream.WithEncoder(encode.Bottledwater{Database: "d"}), jetstream.WithPrefix("cdc.shop"))
	msgs := walchantest.Messages(items.Insert(1, "a"), walchantest.LogicalMessage(true, "p", ""))
	var refused *pipeline.RefusedError
	if err := sink.Write(t.Context(), msgs); !errors.As(err, &refused) || refused.Item != 1 || !errors.Is(err, encode.ErrKind) {
		t.Errorf("a kind without a form: %v", err)
	}
	write(t, sink, msgs[:1])
	if all := stored(t, nc, name); len(all) != 1 || all[0].Subject() != "cdc.shop.public.items" || !strings.Contains(string(all[0].Data()), `"command": "INSERT"`) {
		t.Errorf("stored: %v", all)
	}
}

// A server that is down is an error at once; Write returns soon after its context ends.
func TestServerIsDown(t *testing.T) {
	p := startNATS(t)
	nc := dial(t, p.url())
	sink := open(t, nc, "S")
	p.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := jetstream.Open(ctx, nc, "S"); err == nil {
		t.Error("opened")
	}
	if err := sink.Write(ctx, walchantest.Messages(items.Insert(1, "a"))); err == nil {
		t.Error("written")
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}
