package walchan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// The tests of consumers that store checkpoints, over several processes. A process that is killed has stored more than it has
// acknowledged, because it stores first. A Close after messages that are not acknowledged is the same to the server.

// process is a process of the consumer. It names its publications itself.
func (k *copyOf) process(t *testing.T, db pgtest.DB, opts ...walchan.Option) (*walchan.Stream, error) {
	t.Helper()
	s, err := walchan.Subscribe(t.Context(), db.DSN(), append(opts, walchan.WithSlot(db.Name), walchan.WithLogger(logTo(t)), retrySoon,
		walchan.WithCheckpoint(k.last(t)))...)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// begins is the first process of a target that has all from before the slot.
func (k *copyOf) begins(t *testing.T, db pgtest.DB, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	return k.continues(t, db, append(opts, walchan.WithFrom(slotAt(t, db)))...)
}

var ofTableT = walchan.WithPublication("p")

// continues is the next process.
func (k *copyOf) continues(t *testing.T, db pgtest.DB, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	s, err := k.process(t, db, append(opts, ofTableT)...)
	must(t, err)
	return s
}

// cannot is process, but the process must get an error of that kind and no message.
func (k *copyOf) cannot(t *testing.T, db pgtest.DB, kind error, opts ...walchan.Option) error {
	t.Helper()
	s, err := k.process(t, db, opts...)
	if err == nil {
		if ms := rest(t, s); len(ms) > 0 {
			t.Fatalf("there came %v", ms)
		}
		err = s.Err()
	}
	if !errors.Is(err, kind) {
		t.Fatalf("the error is %v, want %v", err, kind)
	}
	return err
}

// stores receives a message, and stores it without an acknowledgement. It passes over Progress messages.
func (k *copyOf) stores(t *testing.T, s *walchan.Stream) walchan.Message {
	t.Helper()
	for {
		m := next(t, s)
		if k.apply(t, m); m.Kind != walchan.Progress {
			return m
		}
	}
}

// want wants these rows in the target, each once and in order.
func (k *copyOf) want(t *testing.T, first, last int) {
	t.Helper()
	var want []string
	for id := first; id <= last; id++ {
		want = append(want, "insert "+itoa(id))
	}
	wantSame(t, k.rows, want)
}

// A process has stored what it received, and is killed before it could acknowledge anything.
func TestStoredButNotAcknowledgedIsNotReceivedAgain(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 3)
	insert(t, db, 4, 10, 1)
	first := slotAt(t, db)
	for range 8 { // the last one in the middle of a transaction
		k.stores(t, s)
	}
	s.Close()
	if at := slotAt(t, db); at != first {
		t.Fatalf("the slot has moved to %s", at)
	}
	s = k.continues(t, db)
	for range 5 {
		if m := k.stores(t, s); m.Tx.Redelivered {
			t.Errorf("row %d was delivered again", id(m))
		}
	}
	s.Close()
	insert(t, db, 14, 1, 1)
	s = k.continues(t, db)
	k.take(t, s, 1)
	k.want(t, 1, 14)
}

// A target that is older than the slot is refused in every process, until a person accepts the gap. It may have been restored
// from a backup, or may be one of two copies of which the other one has consumed.
func TestOlderTargetIsRefused(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	k.take(t, s, 1)
	older := *k
	insert(t, db, 2, 1, 1)
	k.take(t, s, 1)
	waitSlotAt(t, db, k.last(t).Position().Commit+1)
	mustClose(t, s)
	insert(t, db, 3, 1, 1)
	for range 2 {
		older.cannot(t, db, walchan.ErrSlotMoved, ofTableT)
	}
	s = k.continues(t, db) // the other one is not concerned
	s.Close()
	s = older.continues(t, db, walchan.WithFrom(slotAt(t, db)))
	older.take(t, s, 1)
	wantSame(t, older.rows, []string{"insert 1", "insert 3"})
}

// A consumer acknowledges every message, and stores only some of the checkpoints. The error names that cause before others.
func TestConsumerThatAcknowledgedWhatItDidNotStoreIsRefused(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 25)
	for i, m := range take(t, s, 25) {
		if i%10 == 0 {
			k.apply(t, m)
		}
		s.Ack(m)
	}
	mustClose(t, s)
	err := k.cannot(t, db, walchan.ErrSlotMoved, ofTableT)
	cause, other := strings.Index(err.Error(), "acknowledged whose checkpoint was not stored"), strings.Index(err.Error(), "older")
	if cause < 0 || other < cause || !strings.Contains(err.Error(), "WithFrom("+slotAt(t, db).String()+")") {
		t.Errorf("the error is %v", err)
	}
	s = k.continues(t, db, walchan.WithFrom(slotAt(t, db)))
	insert(t, db, 26, 1, 1)
	k.take(t, s, 1)
	wantSame(t, k.rows, []string{"insert 1", "insert 11", "insert 21", "insert 26"})
}

// The target has lost its checkpoint, and the slot is there.
func TestLostCheckpointIsRefused(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	k.take(t, s, 1)
	mustClose(t, s)
	(&copyOf{}).cannot(t, db, walchan.ErrCheckpoint, ofTableT)
	(&copyOf{}).cannot(t, db, walchan.ErrCheckpoint, ofTableT, walchan.WithCreateSlot())
}

// A process waits for the slot while another one has it and stores more. It must begin after that, and not after what was stored
// when it was started.
func TestTakeOverReadsTheCheckpointOnceTheSlotIsHeld(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	k.take(t, s, 1)
	waiting := make(chan struct{}, 100)
	second := make(chan *walchan.Stream, 1)
	go func() {
		s, err := walchan.Subscribe(t.Context(), db.DSN(), append(usual(t, db), walchan.WithWaitForSlot(),
			walchan.WithStateHook(func(walchan.Stats) {
				select {
				case waiting <- struct{}{}:
				default:
				}
			}),
			walchan.WithCheckpointFrom(func(context.Context) (walchan.Checkpoint, error) { return k.last(t), nil }))...)
		if err != nil {
			t.Error(err)
		}
		second <- s
	}()
	<-waiting
	insert(t, db, 2, 1, 1)
	k.take(t, s, 1)
	mustClose(t, s)
	s = <-second
	if s == nil {
		return
	}
	defer s.Close()
	insert(t, db, 3, 1, 1)
	k.take(t, s, 1)
	k.want(t, 1, 3)
}

// A process stops in the middle of a transaction. The next one has other publications, with which the server sends the transaction
// differently: it is delivered as a whole, and says so.
func TestOtherPublicationsInTheMiddleOfATransaction(t *testing.T) {
	odd, even := func(id int) bool { return id%2 == 1 }, func(id int) bool { return id%2 == 0 }
	all := func(int) bool { return true }
	for name, x := range map[string]struct {
		first, second []string
		stop          int // after so many rows
		want          func(id int) bool
	}{
		"one less":                    {[]string{"odd", "even"}, []string{"odd"}, 7, odd},
		"one less, and less in total": {[]string{"odd", "even"}, []string{"odd"}, 15, odd},
		"one more":                    {[]string{"even"}, []string{"odd", "even"}, 4, all},
		"a row filter":                {[]string{"odd"}, []string{"few"}, 7, func(id int) bool { return odd(id) && id > 4 }},
		"a column list":               {[]string{"odd"}, []string{"narrow"}, 7, odd},
		"the same by another name":    {[]string{"even"}, []string{"same"}, 4, func(id int) bool { return even(id) && id > 8 }},
	} {
		t.Run(name, func(t *testing.T) {
			db := newSource(t)
			if db.Version() < 15 && strings.HasPrefix(name, "a ") {
				t.Skip("row filters and column lists came with PostgreSQL 15")
			}
			db.Exec(t, "CREATE TABLE u (LIKE t INCLUDING ALL)", "CREATE PUBLICATION odd FOR TABLE t", "CREATE PUBLICATION even FOR TABLE u",
				"CREATE PUBLICATION same FOR TABLE u")
			if db.Version() >= 15 {
				db.Exec(t, "CREATE PUBLICATION few FOR TABLE t WHERE (id > 4)", "CREATE PUBLICATION narrow FOR TABLE t (id)")
			}
			db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')", "SELECT pg_create_logical_replication_slot('"+db.Name+"', 'pgoutput')")
			sql := "BEGIN"
			for id := 1; id <= 20; id++ {
				sql += fmt.Sprintf("; INSERT INTO %s VALUES (%d, 'v')", map[bool]string{true: "t", false: "u"}[odd(id)], id)
			}
			db.Exec(t, sql+"; COMMIT")
			k := &copyOf{}
			process := func(publications []string, opts ...walchan.Option) *walchan.Stream {
				s, err := k.process(t, db, append(opts, walchan.WithPublication(publications...))...)
				must(t, err)
				return s
			}
			s := process(x.first, walchan.WithFrom(slotAt(t, db)))
			k.take(t, s, x.stop)
			s.Close()
			again := name != "the same by another name"
			// The second process stops in the middle, too. The third one continues there.
			var want, got []string
			for id := 1; id <= 20; id++ {
				if x.want(id) {
					want = append(want, itoa(id))
				}
			}
			for _, n := range []int{2, len(want) - 2} {
				s = process(x.second)
				for range n {
					m := k.stores(t, s)
					if got = append(got, itoa(id(m))); m.Tx.Redelivered != (again && len(got) <= 2) {
						t.Errorf("row %d: delivered again is %v", id(m), m.Tx.Redelivered)
					}
				}
				s.Close()
			}
			wantSame(t, got, want)
			db.Exec(t, "INSERT INTO t VALUES (101)", "INSERT INTO u VALUES (102)")
			s = process(x.second)
			if m := k.stores(t, s); id(m) < 101 || m.Tx.Redelivered {
				t.Errorf("row %d, delivered again is %v", id(m), m.Tx.Redelivered)
			}
		})
	}
}

// The table of the last transaction is no longer published: that transaction does not come by, although the slot has not confirmed
// it. Only a proof can tell that from another history.
func TestLastTransactionIsNoLongerPublished(t *testing.T) {
	restart := func(t *testing.T, db pgtest.DB) { must(t, db.Restart(t.Context(), pgtest.Immediate)) }
	oneSender := pgtest.WithSetting("max_wal_senders", "1") // none is left to read the commit record
	for name, x := range map[string]struct {
		settings []pgtest.Option
		between  func(t *testing.T, db pgtest.DB)
		unproven bool
	}{
		"the server was not restarted":       {nil, func(*testing.T, pgtest.DB) {}, false},
		"its record in the WAL is there":     {nil, restart, false},
		"its time is known":                  {[]pgtest.Option{oneSender, pgtest.WithSetting("track_commit_timestamp", "on")}, restart, false},
		"nothing can be known":               {[]pgtest.Option{oneSender}, restart, true},
		"one sender, and it did not restart": {[]pgtest.Option{oneSender}, func(*testing.T, pgtest.DB) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			db := ownServer(t, x.settings...)
			if db.Version() < 15 {
				x.unproven = false // the transaction comes again, with nothing in it
			}
			db.Exec(t, "CREATE PUBLICATION q FOR TABLE quiet", "SELECT pg_drop_replication_slot('postgres')", "SELECT pg_create_logical_replication_slot('postgres', 'pgoutput')")
			k, other := &copyOf{}, walchan.WithPublication("q")
			s := k.begins(t, db, other)
			insert(t, db, 1, 3, 1)
			for range 2 + btoi(x.unproven) { // the last one in the middle of the transaction, or not
				k.stores(t, s)
			}
			s.Close()
			noWalsender(t, db)
			x.between(t, db)
			db.Exec(t, "INSERT INTO quiet VALUES (101)")
			var opts []walchan.Option
			if x.unproven {
				k.cannot(t, db, walchan.ErrUnproven, other)
				noWalsender(t, db)
				k.cannot(t, db, walchan.ErrUnproven, other, walchan.WithProof(true))
				noWalsender(t, db)
				opts = append(opts, walchan.WithProof(false))
			}
			s, err := k.process(t, db, append(opts, other)...)
			must(t, err)
			if m := k.stores(t, s); id(m) != 101 {
				t.Errorf("row %d was received", id(m))
			}
			if st := s.Stats(); st.Unproven != x.unproven {
				t.Errorf("unproven is %v", st.Unproven)
			}
		})
	}
}

// noWalsender waits until there is none: that of a stream that has ended may need a moment.
func noWalsender(t *testing.T, db pgtest.DB) {
	t.Helper()
	db.Wait(t, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'walsender'")
}

// Processes with and without these options continue each other in the middle of a transaction, because the server sends the same.
func TestOtherOptionsInTheMiddleOfATransaction(t *testing.T) {
	r := pgtest.Seeded(t)
	db := newSource(t)
	db.Exec(t, "BEGIN; INSERT INTO t SELECT g, repeat('x', 400) FROM generate_series(1, 200) g; SAVEPOINT a; INSERT INTO t VALUES (1000); ROLLBACK TO a; "+
		"SAVEPOINT b; INSERT INTO t SELECT g, repeat('x', 400) FROM generate_series(201, 400) g; RELEASE b; COMMIT", "INSERT INTO t VALUES (401)")
	options := map[string][]walchan.Option{
		"none":         nil,
		"transactions": {walchan.WithTransactions()},
		"streaming":    {walchan.WithStreaming()},
		"spooling":     {walchan.WithStreaming(), walchan.WithSpool(1<<20, t.TempDir()), walchan.WithBuffer(1, 1000)},
		"binary off":   {walchan.WithPluginOption("binary", "false")},
	}
	if db.Version() >= 16 {
		options["parallel"] = []walchan.Option{walchan.WithPluginOption("streaming", "parallel")}
	}
	from := slotAt(t, db)
	for a, first := range options {
		for b, second := range options {
			t.Run(a+" and "+b, func(t *testing.T) {
				db.Exec(t, "SELECT pg_copy_logical_replication_slot('"+db.Name+"', '"+db.Name+"_c')")
				defer db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"_c')")
				k := &copyOf{}
				process := func(n int, opts ...walchan.Option) {
					s, err := walchan.Subscribe(t.Context(), db.DSN(smallWorkMem), append(opts, walchan.WithSlot(db.Name+"_c"), ofTableT, walchan.WithLogger(logTo(t)),
						walchan.WithCheckpoint(k.last(t)))...)
					must(t, err)
					defer s.Close()
					for len(k.rows) < n {
						if m := k.stores(t, s); m.Tx.Redelivered {
							t.Fatalf("%v was delivered again", m)
						}
					}
				}
				process(1+r.IntN(399), append(first, walchan.WithFrom(from))...)
				process(401, second...)
				k.want(t, 1, 401)
			})
		}
	}
}

// Values come in another form with WithBinary, or in another time zone: the transaction is delivered as a whole. Other settings of
// the database change nothing, because the stream sets them itself.
func TestOtherFormOfValuesInTheMiddleOfATransaction(t *testing.T) {
	for name, x := range map[string]struct {
		settings []string
		opts     []walchan.Option
		again    bool
	}{
		"binary":    {nil, []walchan.Option{walchan.WithBinary()}, true},
		"time zone": {[]string{"TimeZone = 'Asia/Tokyo'"}, nil, true},
		"others": {[]string{"DateStyle = 'German'", "IntervalStyle = 'iso_8601'", "extra_float_digits = -3", "bytea_output = 'escape'", "client_encoding = 'LATIN1'"},
			nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			db := newSource(t)
			db.Exec(t, "ALTER TABLE t ADD a timestamptz DEFAULT '2000-01-02 03:04:05', ADD d date DEFAULT '2000-01-02', ADD i interval DEFAULT '1 day 2 hours', "+
				"ADD f float8 DEFAULT 1/3.0::float8, ADD b bytea DEFAULT '\\x00ff', ADD s text DEFAULT 'ä'")
			k := &copyOf{}
			s := k.begins(t, db)
			insert(t, db, 1, 9, 1)
			k.take(t, s, 4)
			last := k.last(t).Position().Ordinal
			s.Close()
			for _, setting := range x.settings {
				db.Exec(t, "ALTER DATABASE "+db.Name+" SET "+setting)
			}
			s = k.continues(t, db, x.opts...)
			if m := k.stores(t, s); m.Tx.Redelivered != x.again || m.Ordinal != last+1 && !x.again || m.Ordinal != last-3 && x.again {
				t.Errorf("number %d after %d, delivered again is %v", m.Ordinal, last, m.Tx.Redelivered)
			}
		})
	}
}

// A message outside of transactions is the last that was stored. It is not delivered again, and a transaction that was under way
// meanwhile is delivered as a whole.
func TestMessageOutsideOfTransactionsIsTheLast(t *testing.T) {
	db := newSource(t)
	k := &copyOf{}
	options := []walchan.Option{walchan.WithStreaming(), walchan.WithPluginOption("messages", "true")}
	process := func(opts ...walchan.Option) *walchan.Stream {
		s, err := walchan.Subscribe(t.Context(), db.DSN(smallWorkMem), append(append(opts, options...), walchan.WithSlot(db.Name), ofTableT, walchan.WithLogger(logTo(t)),
			walchan.WithCheckpoint(k.last(t)))...)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	s := process(walchan.WithFrom(slotAt(t, db)))
	large := pgtest.Connect(t, db.DSN())
	run(t, large, "BEGIN", "INSERT INTO t SELECT g, repeat('x', 400) FROM generate_series(2, 401) g")
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'one', '')", "INSERT INTO t VALUES (1)")
	run(t, large, "INSERT INTO t SELECT g, repeat('x', 400) FROM generate_series(402, 801) g")
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'two', '')")
	var got []string
	for range 3 {
		m := k.stores(t, s)
		got = append(got, m.Prefix())
	}
	wantSame(t, got, []string{"one", "", "two"})
	s.Close()
	s = process()
	db.Exec(t, "SELECT pg_logical_emit_message(false, 'three', '')")
	run(t, large, "COMMIT")
	if m := k.stores(t, s); m.Prefix() != "three" {
		t.Errorf("there came %v", m)
	}
	s.Close()
	s = process()
	for range 800 {
		k.stores(t, s)
	}
	k.want(t, 1, 801)
}

// prepared is a server with a two-phase slot, and a consumer that has stored the slot's beginning.
func prepared(t *testing.T) (pgtest.DB, *copyOf, func() *walchan.Stream) {
	t.Helper()
	db := ownServer(t)
	if db.Version() < 15 {
		t.Skip("pgoutput knows two-phase from PostgreSQL 15 on")
	}
	db.Exec(t, "SELECT pg_drop_replication_slot('postgres')", "SELECT pg_create_logical_replication_slot('postgres', 'pgoutput', false, true)")
	k := &copyOf{}
	first := slotAt(t, db)
	return db, k, func() *walchan.Stream {
		if k.checkpoint == "" {
			return k.continues(t, db, walchan.WithTwoPhase(), walchan.WithFrom(first))
		}
		return k.continues(t, db, walchan.WithTwoPhase())
	}
}

// eachBetween runs a test with what may happen to the server between two processes.
func eachBetween(t *testing.T, f func(t *testing.T, between func(pgtest.DB))) {
	t.Run("the server lives on", func(t *testing.T) { f(t, func(pgtest.DB) {}) })
	t.Run("the server crashes", func(t *testing.T) {
		f(t, func(db pgtest.DB) { must(t, db.Restart(t.Context(), pgtest.Immediate)) })
	})
}

// A prepared transaction is stored and acknowledged. The next process receives its outcome and nothing of it.
func TestPreparedTransactionAcrossProcesses(t *testing.T) {
	for _, acknowledged := range []bool{true, false} {
		for _, outcome := range []string{"COMMIT", "ROLLBACK"} {
			eachBetween(t, func(t *testing.T, between func(pgtest.DB)) {
				db, k, process := prepared(t)
				s := process()
				prepareRow(db, t, "a", 1)
				m := k.stores(t, s)
				if acknowledged {
					s.Ack(m)
					waitSlotAt(t, db, m.Tx.CommitLSN+1)
				}
				s.Close()
				between(db)
				db.Exec(t, outcome+" PREPARED 'a'")
				s = process()
				if m := k.stores(t, s); m.Tx.GID != "a" || m.Kind != map[string]walchan.Kind{"COMMIT": walchan.CommitPrepared, "ROLLBACK": walchan.RollbackPrepared}[outcome] {
					t.Errorf("there came %v", m)
				}
				s.Close()
				// The outcome is stored, and is not delivered again.
				between(db)
				insert(t, db, 2, 1, 1)
				s = process()
				k.stores(t, s)
				k.want(t, 1, 2)
			})
		}
	}
}

// A process is killed among the existing rows, or when it has stored the end of them and not acknowledged it: then there is no slot,
// and the rows are taken again. With the slot the changes follow.
func TestSnapshotOfSeveralProcesses(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	insert(t, db, 1, 100, 1)
	slots := "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" + db.Name + "'"
	k := &copyOf{}
	for _, n := range []int{30, 102} { // 102 with the begin and the end
		k.rows = nil
		s, err := k.process(t, db, ofTableT, walchan.WithCreateSlot(), walchan.WithSnapshot())
		must(t, err)
		for i := range n {
			if m := k.stores(t, s); i < 101 && k.checkpoint != "" {
				t.Fatalf("%v has a checkpoint", m)
			}
		}
		s.Close()
		if got := db.Query(t, slots); got != "0" {
			t.Fatal("the slot was made")
		}
	}
	k.cannot(t, db, walchan.ErrSlotMissing, ofTableT, walchan.WithCreateSlot())
	k.rows = nil
	s, err := k.process(t, db, ofTableT, walchan.WithCreateSlot(), walchan.WithSnapshot())
	must(t, err)
	for range 102 {
		s.Ack(k.stores(t, s))
	}
	insert(t, db, 101, 1, 1)
	k.take(t, s, 1)
	s.Close()
	insert(t, db, 102, 1, 1)
	s, err = k.process(t, db, ofTableT, walchan.WithCreateSlot(), walchan.WithSnapshot())
	must(t, err)
	k.take(t, s, 1)
	for i, row := range k.rows {
		k.rows[i] = strings.Replace(row, "read", "insert", 1)
	}
	k.want(t, 1, 102)
}

// A process is killed before it has stored the beginning, and the next one begins again.
func TestKilledBeforeTheFirstCheckpoint(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+db.Name+"')")
	k := &copyOf{}
	for range 2 {
		s, err := k.process(t, db, ofTableT, walchan.WithCreateSlot())
		must(t, err)
		if m := next(t, s); m.Kind != walchan.Progress {
			t.Fatalf("there came %v", m)
		}
		s.Close()
	}
	s, err := k.process(t, db, ofTableT, walchan.WithCreateSlot())
	must(t, err)
	m := next(t, s)
	k.apply(t, m)
	insert(t, db, 1, 1, 1) // the slot is not there yet, but has begun
	s.Ack(m)
	k.take(t, s, 1)
	s.Close()
	insert(t, db, 2, 1, 1)
	k.take(t, k.continues(t, db), 1)
	k.want(t, 1, 2)
}
