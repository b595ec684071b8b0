package walchan_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// Corners of checkpoints: what two kinds of messages, of options, or two processes do to each other.

// Without Begin and Commit messages the last row of a transaction is kept back, also of one that was prepared.
func TestCheckpointOfACommitPrepared(t *testing.T) {
	db, k, process := prepared(t)
	s := process()
	prepareRow(db, t, "a", 1)
	k.stores(t, s)
	db.Exec(t, "COMMIT PREPARED 'a'")
	m := k.stores(t, s)
	if m.Kind != walchan.CommitPrepared || m.Tx == nil {
		t.Errorf("there came %v, tx %v, checkpoint %v", m, m.Tx, m.Checkpoint())
	}
}

// A transaction was rolled back, a Progress came, and the process was killed before it acknowledged.
func TestRollbackPreparedBeforeAProgressComesOnce(t *testing.T) {
	db, k, _ := prepared(t)
	prepareRow(db, t, "a", 1)
	db.Exec(t, "ROLLBACK PREPARED 'a'", "INSERT INTO quiet VALUES (1)")
	s := k.begins(t, db, walchan.WithTwoPhase(), walchan.WithUntil(walEnd(t, db)))
	n := 0
	for m := range s.C() {
		k.apply(t, m)
		if m.Kind == walchan.RollbackPrepared {
			n++
		}
		if m.Kind == walchan.Progress {
			break
		}
	}
	s.Close()
	insert(t, db, 2, 1, 1)
	s = k.continues(t, db, walchan.WithTwoPhase())
	for {
		m := next(t, s)
		k.apply(t, m)
		if m.Kind == walchan.RollbackPrepared {
			n++
		}
		if m.Kind == walchan.Insert {
			break
		}
	}
	if n != 1 {
		t.Errorf("it came %d times", n)
	}
}

// A message outside of transactions, then a Progress, both stored. The process is killed before it acknowledges.
func TestMessageBeforeAProgressComesOnce(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	insert(t, db, 1, 1, 1)
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'x', 'hello')", "INSERT INTO quiet VALUES (1)")
	end := walEnd(t, db)
	s := k.begins(t, db, walchan.WithUntil(end))
	var ids []string
	var last walchan.Kind
	for m := range s.C() {
		k.apply(t, m)
		last = m.Kind
		if m.Kind == walchan.LogicalMessage {
			ids = append(ids, m.ID())
		}
		if m.Kind == walchan.Progress {
			break
		}
	}
	s.Close() // killed: nothing was acknowledged
	if last != walchan.Progress {
		t.Fatalf("last is %v", last)
	}
	insert(t, db, 2, 1, 1)
	s = k.continues(t, db)
	for {
		m := next(t, s)
		k.apply(t, m)
		if m.Kind == walchan.LogicalMessage {
			ids = append(ids, m.ID())
		}
		if m.Kind == walchan.Insert {
			break
		}
	}
	if len(ids) != 1 {
		t.Errorf("the message came %d times: %v", len(ids), ids)
	}
}

// The same with all acknowledged in time. Then the server crashes, and its slot goes back.
func TestMessageBeforeAProgressAndACrashComesOnce(t *testing.T) {
	db := ownServer(t, pgtest.WithSetting("autovacuum", "off"))
	k := &copyOf{}
	var ids []string
	loop := func(s *walchan.Stream, until func(m walchan.Message) bool) {
		for {
			m := next(t, s)
			k.apply(t, m)
			if m.Kind == walchan.LogicalMessage {
				ids = append(ids, m.ID())
			}
			s.Ack(m)
			if until(m) {
				return
			}
		}
	}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'x', 'hello')", "INSERT INTO quiet VALUES (1)")
	loop(s, func(m walchan.Message) bool { return m.Kind == walchan.LogicalMessage })
	for range 2 {
		writeQuietly(t, db)
	}
	loop(s, func(m walchan.Message) bool { return m.Kind == walchan.Progress })
	must(t, s.Close())
	must(t, db.Restart(t.Context(), pgtest.Immediate))
	insert(t, db, 2, 1, 1)
	s = k.continues(t, db)
	loop(s, func(m walchan.Message) bool { return m.Kind == walchan.Insert })
	if len(ids) != 1 {
		t.Errorf("the message came %d times: %v", len(ids), ids)
	}
}

// A consumer skips everything, and stores the checkpoint of the stream. After a fail-over without a loss it skips more, and stores nothing:
// the slot stays where it is.
func TestSkippingOverAFailover(t *testing.T) {
	h, primary := newHistory(t, false)
	h.opts = []walchan.Option{walchan.WithCheckpoint(walchan.Checkpoint{})}
	h.takesName(primary)
	db := dbOf(primary)
	h.mustSubscribe(walchan.WithFrom(slotAt(t, db)))
	s := h.stream
	skip := func(id int) {
		t.Helper()
		for {
			m := next(t, s)
			s.Skip(m)
			if m.Kind == walchan.Insert {
				return
			}
		}
	}
	store := func() walchan.Checkpoint {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, s.Flush(ctx))
		c := s.Checkpoint()
		s.Stored(c)
		must(t, s.Flush(ctx))
		return c
	}
	insert(t, db, 1, 1, 1)
	skip(1)
	standby := withStandbysRunning(t, h, primary)
	// WAL that the standby does not get.
	must(t, standby.Stop(t.Context(), pgtest.Fast))
	for range 3 {
		writeQuietly(t, db)
	}
	deadline := time.After(patience)
	for got := false; !got; {
		select {
		case m := <-s.C():
			s.Skip(m)
			got = m.Kind == walchan.Progress
		case <-deadline:
			t.Fatal("no progress")
		}
	}
	stored := store()
	h.leaves()
	must(t, primary.Kill())
	must(t, standby.Start(t.Context()))
	must(t, standby.Promote(t.Context()))
	h.goesTo(standby)
	db = dbOf(standby)
	insert(t, db, 2, 1, 1)
	skip(2)
	for range 2 {
		insert(t, db, 3, 1, 1)
		skip(3)
		db.Exec(t, "DELETE FROM t WHERE id = 3")
		s.Skip(next(t, s))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, s.Flush(ctx))
	s.Close()
	db.Wait(t, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active_pid IS NOT NULL")
	h.opts = nil
	h.target = &copyOf{checkpoint: stored.String()}
	h.mustSubscribe()
	m := next(t, h.stream)
	if m.Relation == nil || id(m) != 2 {
		t.Errorf("next process got %v", m)
	}
}

func withStandbysRunning(t *testing.T, h *history, primary *pgtest.Cluster) *pgtest.Cluster {
	t.Helper()
	h.leaves()
	st := withStandbys(t, primary, 1)[0]
	h.goesTo(primary)
	db := dbOf(primary)
	dbOf(st).Wait(t, "SELECT pg_last_wal_replay_lsn() >= '"+walEnd(t, db).String()+"'")
	return st
}

// Nothing was delivered yet but a Progress. After a fail-over that lost WAL without our changes the process stores the checkpoint of the stream.
func TestStreamCheckpointAfterAFailover(t *testing.T) {
	h, primary := newHistory(t, true)
	standby := withStandbys(t, primary, 1)[0]
	h.beginsAt(primary)
	standby.CatchUp(t, primary)
	standby.CutOff(t)
	h.idles()
	h.leaves()
	failOver(t, primary, standby)
	h.goesTo(standby)
	c := h.stream.Checkpoint()
	h.target.checkpoint = c.String()
	h.stream.Stored(c)
	h.leaves() // killed
	insert(t, dbOf(standby), 1, 1, 2)
	h.goesTo(standby)
	insert(t, dbOf(standby), 3, 1, 1)
	var got []int
	timeout := time.After(patience)
	for len(got) == 0 || got[len(got)-1] != 3 {
		select {
		case m := <-h.stream.C():
			if m.Relation != nil {
				got = append(got, id(m))
			}
			h.target.apply(t, m)
			h.stream.Ack(m)
		case <-timeout:
			t.Fatalf("rows 1, 2 and 3 were committed, there came %v; error %v, state %v", got, h.stream.Err(), h.stream.Stats().State)
		}
	}
	if len(got) != 3 {
		t.Errorf("there came %v", got)
	}
}

// The consumer stores a row, skips the next one, and stores the checkpoint of the stream after a Flush.
func TestStreamCheckpointAfterAFlush(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 40)
	for range 20 {
		m := next(t, s)
		k.apply(t, m)
		s.Ack(m)
		before := k.last(t)
		s.Skip(next(t, s))
		flush(t, s)
		c := s.Checkpoint()
		if n, ok := c.Compare(before); n < 0 || !ok {
			t.Fatalf("stored %s; then stream.Checkpoint() is %s", before, c)
		}
		k.checkpoint = c.String()
		s.Stored(c)
	}
	s.Close() // killed
	insert(t, db, 41, 1, 1)
	if m := k.stores(t, k.continues(t, db)); id(m) != 41 {
		t.Errorf("then came row %d", id(m))
	}
}

// Options that do not go together are refused before the slot is dropped.
func TestSubscribeAnewWithFromKeepsTheSlot(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	k.take(t, s, 1)
	mustClose(t, s)
	insert(t, db, 2, 1, 1)
	_, err := walchan.SubscribeAnew(t.Context(), db.DSN(), k.last(t), append(usual(t, db), walchan.WithFrom(slotAt(t, db)), walchan.WithCheckpoint(k.last(t)))...)
	if !errors.Is(err, walchan.ErrOptions) || !strings.Contains(err.Error(), "SubscribeAnew and WithFrom") {
		t.Errorf("the error is %v", err)
	}
	if n := db.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'"); n != "1" {
		t.Errorf("the options are refused, and the slot is dropped")
	}
}

func TestCheckpointOfAPhysicalStreamGivenToSubscribe(t *testing.T) {
	db := newSource(t)
	name := db.Name + "_phys"
	p, err := walchan.SubscribePhysical(t.Context(), db.DSN(), walchan.WithSlot(name), walchan.WithCreateSlot(), walchan.WithLogger(logTo(t)), walchan.WithCheckpoint(walchan.Checkpoint{}))
	must(t, err)
	insert(t, db, 1, 1, 1)
	var c walchan.Checkpoint
	for c.IsZero() {
		m := next(t, p)
		c = m.Checkpoint()
		p.Ack(m)
	}
	p.Close()
	db.Wait(t, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '"+name+"'")
	db.Exec(t, "SELECT pg_drop_replication_slot('"+name+"')")
	_, err = walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithCheckpoint(c))...)
	if !errors.Is(err, walchan.ErrCheckpoint) || !strings.Contains(err.Error(), "SubscribePhysical") {
		t.Errorf("the error is %v", err)
	}
}

// Two processes start at the same time, where there is no slot and nothing is stored. One waits for the other, and continues after what that
// has stored.
func TestTwoProcessesBeginAtOnce(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	k := &copyOf{}
	opts := append(usual(t, db), walchan.WithCreateSlot(), walchan.WithWaitForSlot(),
		walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return k.last(t), nil }))
	a, err := walchan.Subscribe(t.Context(), db.DSN(), opts...)
	must(t, err)
	defer a.Close()
	am := next(t, a)
	insert(t, db, 1, 1, 1)
	_, err = walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithCreateSlot(), walchan.WithCheckpoint(walchan.Checkpoint{}))...)
	if !errors.Is(err, walchan.ErrSlotActive) || !strings.Contains(err.Error(), "is being made by another process") {
		t.Errorf("a second process that does not wait: %v", err)
	}
	second := make(chan *walchan.Stream, 1)
	go func() {
		b, err := walchan.Subscribe(t.Context(), db.DSN(), opts...)
		if err != nil {
			t.Error(err)
		}
		second <- b
	}()
	db.Wait(t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%LEFT JOIN pg_catalog.pg_stat_activity a ON%' AND pid <> pg_backend_pid()")
	k.apply(t, am) // A stores and acknowledges
	a.Ack(am)
	db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	a.Close() // A is killed
	insert(t, db, 2, 1, 1)
	b := <-second
	if b == nil {
		return
	}
	defer b.Close()
	k.take(t, b, 2)
	k.want(t, 1, 2)
}

// A job takes what there is, and ends. Every second one is killed before it acknowledges.
func TestJobsThatTakeWhatThereIs(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	k := &copyOf{}
	id := 1
	for run := range 12 {
		if run > 0 {
			insert(t, db, id, run%3+1, run%2+1)
			id += (run%3 + 1) * (run%2 + 1)
		}
		s, err := k.process(t, db, ofTableT, walchan.WithCreateSlot(), walchan.WithUntilNow())
		must(t, err)
		timeout := time.After(20 * time.Second)
		for open := true; open; {
			var m walchan.Message
			select {
			case m, open = <-s.C():
			case <-timeout:
				t.Fatalf("run %d hangs: %+v", run, s.Stats())
			}
			if open {
				k.apply(t, m)
				if run%2 == 0 {
					s.Ack(m)
				}
			}
		}
		if err := s.Err(); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	k.want(t, 1, id-1)
}

// A process is told to begin anew while another one has the slot. That stores more and ends.
func TestSubscribeAnewOfASlotThatIsInUse(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	k.take(t, s, 1)
	lost := k.last(t)
	asked := make(chan struct{}, 100)
	opts := append(usual(t, db), walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { asked <- struct{}{}; return k.last(t), nil }))
	// Process A still has the slot (it is about to end, as for a supervisor's restart).
	type result struct {
		s   *walchan.Stream
		err error
	}
	first := make(chan result, 1)
	anew := func(c chan result) {
		s, err := walchan.SubscribeAnew(t.Context(), db.DSN(), lost, opts...)
		c <- result{s, err}
	}
	go anew(first)
	<-asked
	<-asked // it waits for the slot
	// Meanwhile the supervisor's old process is the one that goes on: it stores more.
	insert(t, db, 2, 1, 1)
	k.take(t, s, 1)
	if k.last(t) == lost {
		t.Fatal("the same")
	}
	s.Close()
	insert(t, db, 3, 1, 1) // nobody has received this
	r := <-first
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.s.Close()
	insert(t, db, 4, 1, 1)
	for len(k.rows) == 0 || k.rows[len(k.rows)-1] != "insert 4" {
		m := next(t, r.s)
		k.apply(t, m)
		r.s.Ack(m)
	}
	k.want(t, 1, 4)
}

// A consumer has received a snapshot, a message outside of transactions, and no transaction. Its slot is dropped.
func TestMissingSlotAfterAMessage(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	insert(t, db, 1, 1, 1)
	k := &copyOf{}
	s, err := k.process(t, db, ofTableT, walchan.WithCreateSlot(), walchan.WithSnapshot())
	must(t, err)
	for range 3 {
		m := next(t, s)
		k.apply(t, m)
		s.Ack(m)
	}
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'x', 'one')", "INSERT INTO quiet VALUES (1)")
	m := next(t, s)
	if m.Kind != walchan.LogicalMessage {
		t.Fatal(m)
	}
	k.apply(t, m)
	s.Ack(m)
	must(t, s.Close())
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'x', 'two')", "INSERT INTO t VALUES (2)")
	db.Wait(t, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '"+db.Name+"'")
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	_, err = k.process(t, db, ofTableT, walchan.WithCreateSlot(), walchan.WithSnapshot())
	if !errors.Is(err, walchan.ErrSlotMissing) {
		t.Errorf("with a snapshot: %v", err)
	}
}

// WithTwoPhase is switched on while the slot is behind what is stored: the server would send a transaction that was prepared in between at its
// PREPARE, in the midst of what the consumer has.
func TestTwoPhaseIsNotSwitchedOnBehindTheCheckpoint(t *testing.T) {
	for name, committed := range map[string]bool{"prepared": false, "delivered in part": true} {
		t.Run(name, func(t *testing.T) {
			db := ownServer(t)
			if serverVersion(t, db) < 150000 {
				t.Skip("PostgreSQL 14 has no two-phase")
			}
			k := &copyOf{}
			s := k.begins(t, db)
			db.Exec(t, "BEGIN; INSERT INTO t SELECT generate_series(1, 5); PREPARE TRANSACTION 'a'")
			if committed {
				db.Exec(t, "COMMIT PREPARED 'a'")
				k.stores(t, s)
				k.stores(t, s)
			} else {
				insert(t, db, 6, 1, 1)
				k.stores(t, s)
			}
			s.Close()
			k.cannot(t, db, walchan.ErrOptions, ofTableT, walchan.WithTwoPhase(), walchan.WithUntilNow()) // or it would be awaited for ever if it began
			k.end(t, k.continues(t, db, walchan.WithUntilNow()))
			noWalsender(t, db)
			s = k.continues(t, db, walchan.WithTwoPhase())
			if !committed {
				db.Exec(t, "COMMIT PREPARED 'a'")
			}
			insert(t, db, 7, 1, 1)
			for len(k.rows) < 6+btoi(!committed) {
				s.Ack(k.stores(t, s))
			}
			want := []string{"insert 1", "insert 2", "insert 3", "insert 4", "insert 5", "insert 7"}
			if !committed {
				want = append([]string{"insert 6"}, want...)
			}
			wantSame(t, k.rows, want)
		})
	}
}

func TestProofIsWantedWhereNothingWasDelivered(t *testing.T) {
	db := ownServer(t, pgtest.WithSetting("autovacuum", "off"))
	k := &copyOf{}
	s := k.begins(t, db)
	for range 3 {
		writeQuietly(t, db)
	}
	m := next(t, s)
	k.apply(t, m)
	s.Ack(m)
	waitSlotAt(t, db, k.last(t).Position().Commit)
	mustClose(t, s)
	must(t, db.Restart(t.Context(), pgtest.Immediate))
	s, err := k.process(t, db, ofTableT, walchan.WithProof(true))
	if err == nil {
		rest(t, s)
		err = s.Err()
	}
	if !errors.Is(err, walchan.ErrUnproven) || !strings.Contains(err.Error(), "no transaction was delivered yet") {
		t.Errorf("the error is %v", err)
	}
	s, err = k.process(t, db, ofTableT)
	must(t, err)
	if !s.Stats().Unproven {
		t.Error("it is not said to be unproven")
	}
}

// A checkpoint that was read before it was clear that the process has the slot.
func TestCheckpointThatIsReadTooEarly(t *testing.T) {
	db := newSource(t)
	_, err := walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithCheckpoint(walchan.Checkpoint{}), walchan.WithWaitForSlot())...)
	if !errors.Is(err, walchan.ErrOptions) || !strings.Contains(err.Error(), "WithCheckpointFrom") {
		t.Errorf("the error is %v", err)
	}
}
