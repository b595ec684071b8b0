package walchan_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// copies makes slots at the place of the source's.
func copies(t *testing.T, db pgtest.DB, names ...string) {
	t.Helper()
	for _, name := range names {
		db.Exec(t, "SELECT pg_copy_logical_replication_slot('"+db.Name+"', '"+name+"')")
	}
}

// read streams until the end, and acknowledges all.
func read(t *testing.T, db pgtest.DB, opts ...walchan.Option) []walchan.Message {
	t.Helper()
	s := subscribe(t, db, opts...)
	ms := rest(t, s)
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	ackAll(s, ms)
	awaitState(t, s, walchan.StateClosed) // by itself
	mustClose(t, s)
	return ms
}

// Wherever the log is cut, what one stream ends with and the next one begins with makes the whole.
func TestUntilAndFromCutTheLogInTwo(t *testing.T) {
	db := newSource(t)
	copies(t, db, db.Name+"_u")
	busyLife(t, db)
	all := undisturbed(t, db)
	want := positions(all)
	cuts := map[walchan.LSN]bool{}
	for _, m := range all {
		for _, lsn := range []walchan.LSN{m.LSN, m.End()} {
			if lsn != 0 {
				cuts[lsn] = true
			}
		}
	}
	t.Logf("%d cuts", len(cuts))
	for cut := range cuts {
		a, b := fmt.Sprintf("%s_a%d", db.Name, cut), fmt.Sprintf("%s_b%d", db.Name, cut)
		copies(t, db, a, b)
		before := read(t, db, walchan.WithSlot(a), walchan.WithTransactions(), walchan.WithUntil(cut))
		for _, m := range before {
			if p, _ := m.Position(); p.Commit >= cut && (m.Tx != nil || m.LSN > cut) {
				t.Errorf("until %s: %v", cut, m)
			}
		}
		again := subscribe(t, db, walchan.WithSlot(a), walchan.WithTransactions()) // a stream that ended has confirmed no more than it was to
		behind := open(t, t.Context(), db, walchan.WithSlot(b), walchan.WithTransactions(), walchan.WithFrom(cut))
		for _, s := range []*walchan.Stream{again, behind} {
			got := before[:len(before):len(before)]
			for len(got) < len(all) {
				got = append(got, next(t, s))
			}
			wantSame(t, positions(got), want)
			mustClose(t, s)
		}
		for _, slot := range []string{a, b} {
			db.Exec(t, "SELECT pg_drop_replication_slot('"+slot+"')")
		}
	}
}

// A transaction is the last one with its own end, and with what the server says of itself behind its COMMIT; not with its commit LSN.
func TestUntilWhatIsTheLastTransaction(t *testing.T) {
	db := newSource(t)
	copies(t, db, db.Name+"_1", db.Name+"_2", db.Name+"_3")
	insert(t, db, 1, 2, 2)
	at := walEnd(t, db)
	insert(t, db, 5, 2, 2)
	ms := take(t, subscribe(t, db, walchan.WithTransactions()), 16)
	for slot, until := range map[string]walchan.LSN{"_1": ms[7].End(), "_2": at, "_3": ms[8].Tx.CommitLSN} {
		wantIDs(t, read(t, db, walchan.WithSlot(db.Name+slot), walchan.WithUntil(until)), 1, 2, 3, 4)
	}
}

// Now is when Subscribe is called. What there is is taken, in as many connections as it needs, and confirmed; then the stream
// ends, also where there is nothing, and where the server has nothing to send.
func TestUntilNow(t *testing.T) {
	db := newSource(t)
	began := time.Now()
	if ms := read(t, db, walchan.WithUntilNow()); len(ms) > 0 {
		t.Errorf("%d messages", len(ms))
	}
	insert(t, db, 1, 10, 20)
	db.Exec(t, "INSERT INTO quiet SELECT generate_series(1, 1000)")
	p := &tap{t: t, cut: func(dial int) int { return dial % 4 * 500 }}
	s := open(t, t.Context(), db, p.option(), walchan.WithUntilNow())
	insert(t, db, 201, 10, 20) // too late
	ms := rest(t, s)
	wantRange(t, ms, 1, 200)
	if n := s.Stats().Reconnects; n == 0 || s.Err() != nil {
		t.Errorf("%d reconnects, %v", n, s.Err())
	}
	ackAll(s, ms)
	awaitState(t, s, walchan.StateClosed)
	wantRange(t, read(t, db, walchan.WithUntilNow()), 201, 400)
	if ms := read(t, db, walchan.WithUntilNow()); len(ms) > 0 {
		t.Errorf("another %d messages", len(ms))
	}
	if d := time.Since(began); d > 20*time.Second { // the server would speak by itself after 30
		t.Errorf("it took %v", d)
	}
}

// At its end a stream waits for the consumer without a limit; once it is told to stop, for the drain timeout.
func TestUntilWaitsForTheAcknowledgements(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := open(t, ctx, db, walchan.WithUntilNow(), walchan.WithDrainTimeout(0))
	ms := rest(t, s)
	wantIDs(t, ms, 1, 2, 3)
	s.Ack(ms[0])
	if got := confirmed(t, s, db); got < ms[0].Tx.CommitLSN || got > ms[1].Tx.CommitLSN {
		t.Errorf("confirmed is %s, want the first transaction", got)
	}
	if st := s.Stats().State; st != walchan.StateDraining {
		t.Errorf("it is %v", st)
	}
	cancel()
	awaitState(t, s, walchan.StateClosed)
	mustClose(t, s)
	wantIDs(t, read(t, db, walchan.WithUntilNow()), 2, 3)
}

// A position that the server has yet to come to is waited for, and transactions that are larger, in progress or prepared
// end where others do.
func TestUntilOfTransactionsInProgressAndPrepared(t *testing.T) {
	db := ownServer(t) // nobody else writes WAL
	since(t, db, 15, "prepared transactions")
	slot := db.Name + "_2p"
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput', false, true)")
	large := pgtest.Connect(t, db.DSN())
	run(t, large, "BEGIN", "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g")
	ends := make([]walchan.LSN, 0, 4)
	for _, sql := range []string{"BEGIN; INSERT INTO t VALUES (10001); PREPARE TRANSACTION '" + slot + "'", "", "COMMIT PREPARED '" + slot + "'", "INSERT INTO t VALUES (10002)"} {
		if sql == "" {
			run(t, large, "COMMIT")
		} else {
			db.Exec(t, sql)
		}
		ends = append(ends, walEnd(t, db))
	}
	opts := []walchan.Option{walchan.WithSlot(slot), walchan.WithStreaming(), walchan.WithTwoPhase()}
	for i, want := range []int{1, 3000, 1, 1} {
		s, err := walchan.Subscribe(t.Context(), db.DSN("options='-c logical_decoding_work_mem=64kB'"), append(append(usual(t, db), opts...), walchan.WithUntil(ends[i]))...)
		if err != nil {
			t.Fatal(err)
		}
		ms := rest(t, s)
		if len(ms) != want || s.Err() != nil {
			t.Errorf("until %d: %d messages, want %d: %v", i, len(ms), want, s.Err())
		}
		ackAll(s, ms)
		awaitState(t, s, walchan.StateClosed)
		mustClose(t, s)
	}
	db.Exec(t, "INSERT INTO t VALUES (10003)")
	s := open(t, t.Context(), db, append(opts, walchan.WithUntil(walEnd(t, db)+1000))...)
	wantIDs(t, []walchan.Message{next(t, s)}, 10003)
	db.Exec(t, "INSERT INTO quiet SELECT generate_series(1, 20000)", "INSERT INTO t VALUES (10004)")
	if ms := rest(t, s); len(ms) > 0 {
		t.Errorf("behind the end: %v", ms)
	}
}

// Of another plugin the position of each message counts: the last one is the first that is at the end, or that before the first
// behind it. pg_recvlogical does the same.
func TestUntilOfRawMessages(t *testing.T) {
	db := newSource(t)
	slot, cut := db.Name+"_td", db.Name+"_cut"
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'test_decoding')")
	insert(t, db, 1, 3, 2)
	s := subscribeDecoding(t, db)
	all := take(t, s, 10)
	mustClose(t, s)
	for _, m := range all {
		for _, until := range []walchan.LSN{m.LSN, m.LSN + 1} {
			if m.LSN == 0 {
				continue // of a BEGIN that is sent together with a change the server does not say where it is
			}
			want := 0
			for want < 10 && all[want].LSN < until {
				want++
			}
			if want < 10 && all[want].LSN == until {
				want++
			}
			db.Exec(t, "SELECT pg_copy_logical_replication_slot('"+slot+"', '"+cut+"')")
			s := subscribeDecoding(t, db, walchan.WithSlot(cut), walchan.WithUntil(until))
			ms := rest(t, s)
			if len(ms) != want && len(ms) != want/5*5 { // the server may say that it is there before it sends a part
				t.Errorf("until %s: %d messages, want %d", until, len(ms), want)
			}
			ackAll(s, ms)
			awaitState(t, s, walchan.StateClosed)
			mustClose(t, s)
			s = subscribeDecoding(t, db, walchan.WithSlot(cut), walchan.WithUntilNow())
			if again := rest(t, s); want/5*5+len(again) != 10 { // what did not come whole
				t.Errorf("until %s, and then another %d", until, len(again))
			}
			mustClose(t, s)
			db.Exec(t, "SELECT pg_drop_replication_slot('"+cut+"')")
		}
	}
}

func TestFromRefusesWhatWouldLeaveAGap(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 1, 4)
	slot := func(opts ...walchan.Option) []walchan.Option {
		return append([]walchan.Option{walchan.WithSlot(db.Name), walchan.WithPublication("p")}, opts...)
	}
	check(t, trySubscribe(t, db.DSN(), slot(walchan.WithFrom(walEnd(t, db)+1<<40))...), walchan.ErrOptions, "ahead of the server's WAL")
	check(t, trySubscribe(t, db.DSN(), slot(walchan.WithFrom(1), walchan.WithCreateSlot())...), walchan.ErrOptions, "WithFrom needs WithSlot, without WithCreateSlot")
	check(t, trySubscribe(t, db.DSN(), walchan.WithPublication("p"), walchan.WithFrom(1)), walchan.ErrOptions, "WithFrom needs WithSlot")
	check(t, trySubscribe(t, db.DSN(), slot(walchan.WithFrom(2), walchan.WithUntil(1))...), walchan.ErrOptions, "WithUntil(0/1) lies before WithFrom(0/2)")
	check(t, trySubscribe(t, db.DSN(), slot(walchan.WithUntilNow(), walchan.WithUntil(1))...), walchan.ErrOptions, "exclude one another")

	s := open(t, t.Context(), db, walchan.WithFrom(1)) // what is confirmed is gone: 1 is before it
	ms := take(t, s, 4)
	wantRange(t, ms, 1, 4)
	ackAll(s, ms[:2])
	mustClose(t, s)
	wantIDs(t, take(t, open(t, t.Context(), db, walchan.WithFrom(ms[0].Tx.CommitLSN)), 2), 3, 4)
}

// From where it begins a stream is confirmed, over reconnects too.
func TestFromIsKeptOverReconnects(t *testing.T) {
	db := newSource(t)
	insert(t, db, 1, 2, 5)
	s := subscribe(t, db)
	third := take(t, s, 5)[4].Tx.CommitLSN
	mustClose(t, s)
	s = open(t, t.Context(), db, walchan.WithFrom(third), walchan.WithBuffer(1, 1))
	first := next(t, s)
	terminate(t, db)
	wantRange(t, append([]walchan.Message{first}, take(t, s, 5)...), 5, 10)
	if at := slotAt(t, db); at != third {
		t.Errorf("confirmed is %s, want %s", at, third)
	}
}
