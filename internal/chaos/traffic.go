package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// unpublished is the table that the publication leaves out.
const unpublished = "hidden"

// Every change is unlike any other: a row's id is never used twice, and an UPDATE writes the transaction's number.
var tables = []string{
	"CREATE TABLE accounts (id bigint PRIMARY KEY, tx bigint, amount numeric(12,2), v text, note text)",
	"ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL", // long ones are TOASTed, and left out of UPDATEs
	"CREATE TABLE documents (id bigint PRIMARY KEY, tx bigint, at timestamptz, body text)",
	"ALTER TABLE documents ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL",
	"CREATE TABLE scratch (id bigint, tx bigint)", // for TRUNCATE
	"CREATE TABLE marker (id int)",                // says when the consumers have caught up
	// A row of each transaction, the last change in it: how many changes the publication should have of it, this one included.
	"CREATE TABLE ledger (tx bigint PRIMARY KEY, changes int)",
}

// identifying are the columns of the tables that tell one state of a row from any other, of this or another row. The first is
// the key.
var identifying = map[string][]string{
	"accounts":  {"id", "tx", "v"},
	"documents": {"id", "tx", "at"},
	"scratch":   {"id", "tx"},
	"marker":    {"id"},
	"ledger":    {"tx", "changes"},
}

var publishing = []string{
	"CREATE TABLE " + unpublished + " (id bigint, tx bigint)",
	"CREATE PUBLICATION chaos FOR TABLE accounts, documents, scratch, marker, ledger",
	makeReference,
}

const makeReference = "SELECT pg_create_logical_replication_slot('" + referenceSlot + "', 'test_decoding')"

// traffic is what the writers have done together.
type traffic struct {
	committed, rolledBack, broken, large atomic.Int64 // transactions; broken: the connection was lost in it
	changes                              atomic.Int64 // of the committed ones, published

	// Each writer holds gate during a transaction. While it is locked nobody writes.
	gate sync.RWMutex
	dsn  string // of the primary

	mu   sync.Mutex
	sure []int64 // numbers of transactions whose COMMIT was answered, since the last call of takeSure
}

// takeSure returns the numbers of the committed transactions since its last call.
func (t *traffic) takeSure() []int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	sure := t.sure
	t.sure = nil
	return sure
}

func (t *traffic) commit(tx int64, changes int) {
	t.committed.Add(1)
	t.changes.Add(int64(changes))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sure = append(t.sure, tx)
}

// A writer writes one transaction after the other, straight to the primary.
type writer struct {
	traffic *traffic
	rng     *rand.Rand
	conn    *pgconn.PgConn // nil: none
	to      string         // the dsn of conn
	first   int64          // number of its first transaction
	next    int64          // number of the next one
	bulk    []int64        // large transactions of inserts whose rows are not yet deleted
	bulkAt  time.Time      // when the next large one is due

	largeTx   int  // changes of a large transaction
	truncates bool // not each of them: they would wait for each other
}

const (
	perWriter = 1 << 32 // numbers of transactions
	perTx     = 100_000 // numbers of rows
)

func newWriter(t *traffic, seed uint64, number int) *writer {
	first := int64(number) * perWriter
	return &writer{traffic: t, rng: rand.New(rand.NewPCG(seed, uint64(1000+number))), first: first, next: first}
}

// run writes until ctx ends; then it ends the transaction it is in.
func (w *writer) run(ctx context.Context) {
	w.bulkAt = time.Now().Add(time.Duration(w.rng.IntN(20_000)) * time.Millisecond)
	for ctx.Err() == nil {
		err := w.transaction(context.WithoutCancel(ctx), w.random)
		pause := time.Duration(w.rng.ExpFloat64() * float64(80*time.Millisecond))
		if err != nil {
			pause = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(pause, time.Second)):
		}
	}
	w.close()
}

func (w *writer) close() {
	if w.conn != nil {
		w.conn.Close(context.Background())
		w.conn = nil
	}
}

// A transaction counts what it does.
type transaction struct {
	ctx      context.Context
	conn     *pgconn.PgConn
	number   int64
	rows     int64 // ids that are used
	changes  int   // published
	rollback bool
	err      error
}

// do runs a statement, unless one has failed, and counts the changes it makes.
func (t *transaction) do(format string, args ...any) (changes int) {
	if t.err != nil {
		return 0
	}
	results, err := t.conn.Exec(t.ctx, fmt.Sprintf(format, args...)).ReadAll()
	if err != nil {
		t.err = err
		return 0
	}
	if tag := results[0].CommandTag; tag.Insert() || tag.Update() || tag.Delete() {
		changes = int(tag.RowsAffected())
		t.changes += changes
	}
	return changes
}

func (t *transaction) id() int64 {
	t.rows++
	return t.number*perTx + t.rows
}

// connect makes sure of a connection to the primary.
func (w *writer) connect(ctx context.Context) error {
	if w.to != w.traffic.dsn {
		w.close()
	}
	if w.conn != nil && !w.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, w.traffic.dsn)
	if err == nil {
		w.conn, w.to = conn, w.traffic.dsn
	}
	return err
}

// transaction runs one transaction with its row in the ledger.
func (w *writer) transaction(ctx context.Context, body func(*transaction)) error {
	w.traffic.gate.RLock()
	defer w.traffic.gate.RUnlock()
	if err := w.connect(ctx); err != nil {
		return err
	}
	t := &transaction{ctx: ctx, conn: w.conn, number: w.next}
	w.next++
	t.do("BEGIN")
	body(t)
	t.do("INSERT INTO ledger VALUES (%d, %d)", t.number, t.changes+1)
	if t.rollback && t.err == nil {
		t.do("ROLLBACK")
		w.traffic.rolledBack.Add(1)
		return t.err
	}
	t.do("COMMIT")
	switch {
	case t.err == nil:
		w.traffic.commit(t.number, t.changes)
	case w.conn.IsClosed():
		w.traffic.broken.Add(1)
	default:
		w.traffic.rolledBack.Add(1)
		_ = w.conn.Exec(ctx, "ROLLBACK").Close()
	}
	return t.err
}

// random fills a transaction.
func (w *writer) random(t *transaction) {
	if time.Now().After(w.bulkAt) {
		w.bulkAt = time.Now().Add(20*time.Second + time.Duration(w.rng.IntN(40_000))*time.Millisecond)
		w.large(t)
		return
	}
	if w.truncates && w.rng.IntN(40) == 0 {
		truncate(t)
		return
	}
	t.rollback = w.rng.IntN(20) == 0
	savepoint := false
	for range 1 + w.rng.IntN(50) {
		switch p := w.rng.IntN(1000); {
		case p < 970:
			w.change(t)
		case savepoint:
			savepoint = false
			t.do("RELEASE s")
		case p < 985:
			savepoint = true
			t.do("SAVEPOINT s")
		default:
			w.mistake(t)
		}
	}
}

// mistake does something and undoes it.
func (w *writer) mistake(t *transaction) {
	before := t.changes
	t.do("SAVEPOINT mistake")
	for range 1 + w.rng.IntN(5) {
		w.change(t)
	}
	t.do("ROLLBACK TO mistake")
	t.changes = before
}

// change makes one change, or none if it finds no row.
func (w *writer) change(t *transaction) {
	switch p := w.rng.IntN(100); {
	case p < 35:
		t.do("INSERT INTO accounts VALUES (%d, %d, %d.5, 'it''s %d', %s)", t.id(), t.number, w.rng.IntN(1000), w.rng.IntN(1000), w.text())
	case p < 60:
		t.do("UPDATE accounts SET tx = %d, v = '%d', amount = amount + 1 WHERE id = %s", t.number, t.id(), w.some("accounts"))
	case p < 62: // another key
		t.do("UPDATE accounts SET id = %d, tx = %d WHERE id = %s", t.id(), t.number, w.some("accounts"))
	case p < 72:
		t.do("DELETE FROM accounts WHERE id = %s", w.some("accounts"))
	case p < 77:
		t.do("INSERT INTO documents (id, tx, at, body) VALUES (%d, %d, clock_timestamp(), %s)", t.id(), t.number, w.text())
	case p < 82:
		t.do("UPDATE documents SET tx = %d, at = clock_timestamp() WHERE id = %s", t.number, w.some("documents"))
	case p < 84:
		t.do("DELETE FROM documents WHERE id = %s", w.some("documents"))
	case p < 90:
		before := t.changes
		t.do("INSERT INTO %s VALUES (%d, %d)", unpublished, t.id(), t.number)
		t.changes = before
	case p < 94:
		t.do("INSERT INTO scratch VALUES (%d, %d)", t.id(), t.number)
	case p < 97:
		t.do("SELECT pg_logical_emit_message(true, 'chaos', 'of %d')", t.id())
		t.changes++
	default: // comes, whatever becomes of the transaction
		t.do("SELECT pg_logical_emit_message(false, 'chaos', 'beside %d')", t.id())
	}
}

// some is an expression: a row of this writer's, so that the writers do not wait for each other.
func (w *writer) some(table string) string {
	from := w.first + w.rng.Int64N(w.next-w.first+1)
	return fmt.Sprintf("(SELECT min(id) FROM %s WHERE id BETWEEN %d AND %d)", table, from*perTx, (w.first+perWriter)*perTx)
}

// text is an expression: mostly short, sometimes NULL, sometimes too long for a page.
func (w *writer) text() string {
	switch p := w.rng.IntN(20); {
	case p == 0:
		return fmt.Sprintf("repeat('%d ', 1500)", w.rng.IntN(1_000_000))
	case p < 4:
		return "NULL"
	}
	return "'" + strings.Repeat("x", w.rng.IntN(100)) + "'"
}

// large makes a large transaction: inserts, or the deletion of what one of them has inserted.
func (w *writer) large(t *transaction) {
	w.traffic.large.Add(1)
	if len(w.bulk) > 0 && w.rng.IntN(2) == 0 {
		from := w.bulk[0] * perTx
		w.bulk = w.bulk[1:]
		t.do("DELETE FROM accounts WHERE id BETWEEN %d AND %d", from, from+perTx-1)
		return
	}
	w.bulk = append(w.bulk, t.number)
	if w.rng.IntN(2) == 0 {
		t.do("INSERT INTO accounts SELECT %d + g, %d, g, 'bulk', NULL FROM generate_series(1, %d) g", t.number*perTx, t.number, w.largeTx)
	} else {
		t.copy(w.largeTx)
	}
}

// copy inserts by COPY, which writes many rows in one record of WAL.
func (t *transaction) copy(rows int) {
	if t.err != nil {
		return
	}
	var b bytes.Buffer
	for range rows {
		fmt.Fprintf(&b, "%d\t%d\tcopied\n", t.id(), t.number)
	}
	tag, err := t.conn.CopyFrom(t.ctx, &b, "COPY accounts (id, tx, v) FROM STDIN")
	t.changes += int(tag.RowsAffected())
	t.err = err
}

// truncate empties scratch, among changes to it.
func truncate(t *transaction) {
	t.do("INSERT INTO scratch VALUES (%d, %d)", t.id(), t.number)
	t.do("TRUNCATE scratch")
	t.changes++
	t.do("INSERT INTO scratch VALUES (%d, %d)", t.id(), t.number)
}

// alter changes a published table, in a transaction that writes before and after.
func (w *writer) alter(t *transaction) {
	table := []string{"accounts", "documents"}[w.rng.IntN(2)]
	t.do("SET LOCAL lock_timeout = '2s'")
	insert := func() { t.do("INSERT INTO %s (id, tx) VALUES (%d, %d)", table, t.id(), t.number) }
	insert()
	if w.rng.IntN(2) == 0 {
		t.do("ALTER TABLE %s ADD COLUMN IF NOT EXISTS extra int DEFAULT %d", table, w.rng.IntN(1000))
	} else {
		t.do("ALTER TABLE %s DROP COLUMN IF EXISTS extra", table)
	}
	insert()
}
