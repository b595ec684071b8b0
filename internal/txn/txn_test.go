package txn

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// records goes through what is left of a transaction.
func records(x *Transaction) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for p := x.play(); ; {
			rec, err := p.next()
			if rec == nil && err == nil || !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// read returns what is left of a transaction.
func read(t *testing.T, x *Transaction) (all []string) {
	t.Helper()
	var seq uint64
	for rec, err := range records(x) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Seq <= seq || rec.LSN != 2*rec.Seq || rec.SentAt != -int64(rec.Seq) {
			t.Fatalf("behind %d there is %d, at %d, sent at %d", seq, rec.Seq, rec.LSN, rec.SentAt)
		}
		seq = rec.Seq
		all = append(all, string(rec.Data))
	}
	return all
}

// adder numbers the records.
type adder uint64

func (a *adder) add(t *testing.T, x *Transaction, subxid uint32, data string) {
	t.Helper()
	*a++
	rec := Record{Seq: uint64(*a), LSN: 2 * uint64(*a), SentAt: -int64(*a)}
	if err := x.Add(subxid, rec, data[0], []byte(data[1:])); err != nil {
		t.Fatal(err)
	}
}

// session is a transaction as a database session has it: a model, that knows the subtransactions as they nest.
type session struct {
	x      *Transaction
	stack  []*savepoint // the transaction, and the subtransactions that are open in it
	sent   []change
	xids   *uint32
	rnd    *rand.Rand
	number int
}

type savepoint struct {
	xid      uint32 // 0: it has not written
	sent     bool
	parent   *savepoint
	released []*savepoint // within it
}

type change struct {
	by   *savepoint // nil: a message, that belongs to nobody in particular
	data string
}

func (c change) within(s *savepoint) bool {
	for by := c.by; by != nil; by = by.parent {
		if by == s {
			return true
		}
	}
	return false
}

// assign gives a subtransaction its XID, the outer ones first.
func (s *session) assign(p *savepoint) {
	if p.xid != 0 {
		return
	}
	if p.parent != nil {
		s.assign(p.parent)
	}
	p.xid = *s.xids
	if *s.xids++; *s.xids < 3 {
		*s.xids = 3 // the first ones are special (src/include/access/transam.h)
	}
}

func (s *session) top() *savepoint { return s.stack[len(s.stack)-1] }

func (s *session) write(t *testing.T, a *adder) {
	p := s.top()
	s.assign(p)
	s.number++
	size := 1 + s.rnd.IntN(500)
	if s.rnd.IntN(2000) == 0 {
		size = readBuffer + s.rnd.IntN(readBuffer)
	}
	c := change{p, fmt.Sprintf("%d: %s", s.number, strings.Repeat("x", size))}
	subxid := p.xid
	if s.rnd.IntN(20) == 0 {
		c.by, subxid = nil, 0
	} else {
		p.sent = true
	}
	s.sent = append(s.sent, c)
	a.add(t, s.x, subxid, c.data)
}

func (s *session) savepoint() { s.stack = append(s.stack, &savepoint{parent: s.top()}) }

func (s *session) release() {
	p := s.top()
	s.stack = s.stack[:len(s.stack)-1]
	s.top().released = append(append(s.top().released, p.released...), p)
}

// rollback is announced as the server does it: those within in the order of their XIDs, then itself (DecodeAbort in
// src/backend/replication/logical/decode.c), each if it has sent something.
func (s *session) rollback(t *testing.T, store *Store) {
	p := s.top()
	s.stack = s.stack[:len(s.stack)-1]
	slices.SortFunc(p.released, func(a, b *savepoint) int { return int(int32(a.xid - b.xid)) })
	for _, q := range append(p.released, p) {
		if !q.sent && s.rnd.IntN(2) == 0 {
			continue
		}
		if q.xid != 0 {
			if err := store.Rollback(s.x.XID, q.xid); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := slices.IndexFunc(s.sent, func(c change) bool { return c.within(p) })
	if first < 0 {
		return
	}
	for _, c := range s.sent[first:] {
		if c.by != nil && !c.within(p) {
			t.Fatal("the model is wrong: a change of another one between those of a subtransaction")
		}
	}
	s.sent = s.sent[:first]
}

// Interleaved transactions with nested subtransactions, of which many are rolled back: what is left is what the model has,
// within the limit of memory, and no file is left behind.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(15) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		store := &Store{Limit: 1 << (17 + rnd.IntN(5)), Dir: t.TempDir()}
		xids := -uint32(1 + rnd.IntN(2000)) // they wrap around soon
		var a adder
		var spilled int64
		sessions := map[int]*session{}
		for range 4000 {
			i := rnd.IntN(6)
			s := sessions[i]
			if s == nil {
				s = &session{xids: &xids, rnd: rnd, stack: []*savepoint{{}}}
				s.assign(s.top())
				s.x = store.Begin(s.top().xid)
				sessions[i] = s
			}
			switch op := rnd.IntN(100); {
			case op < 70:
				s.write(t, &a)
			case op < 82 && len(s.stack) < 6:
				s.savepoint()
			case op < 88 && len(s.stack) > 1:
				s.release()
			case op < 97 && len(s.stack) > 1:
				s.rollback(t, store)
			case op == 98 && rnd.IntN(4) == 0:
				if err := store.Rollback(s.x.XID, s.x.XID); err != nil {
					t.Fatal(err)
				}
				delete(sessions, i)
			case op == 99 && rnd.IntN(4) == 0:
				check(t, store, s)
				delete(sessions, i)
			}
			if held := store.memory + len(store.free)*chunkSize; held > store.Limit {
				t.Fatalf("%d bytes held, the limit is %d", held, store.Limit)
			}
			spilled = max(spilled, store.disk)
		}
		for _, s := range sessions {
			check(t, store, s)
		}
		if store.Size() != 0 || store.free != nil || len(store.open) != 0 {
			t.Errorf("seed %d: %d bytes, %d chunks and %d transactions are left", seed, store.Size(), len(store.free), len(store.open))
		}
		if spilled == 0 && store.Limit < 1<<19 {
			t.Errorf("seed %d: nothing went to a file", seed)
		}
		isEmpty(t, store.Dir)
	}
}

func check(t *testing.T, store *Store, s *session) {
	t.Helper()
	var want []string
	for _, c := range s.sent {
		want = append(want, c.data)
	}
	x := store.Take(s.x.XID)
	if got := read(t, x); !slices.Equal(got, want) {
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Fatalf("%d records, want %d; they differ from the %d-th on", len(got), len(want), i)
			}
		}
	}
	x.Close()
}

func isEmpty(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Errorf("%s is left behind", f.Name())
	}
}

// What the server was seen to do: 741 and 742 are within 740, of which the first change came behind those of 741.
func TestRollbackOfASavepointThatWroteAfterTheOnesWithinIt(t *testing.T) {
	store := &Store{Limit: 1 << 20}
	x := store.Begin(737)
	var a adder
	for _, c := range []struct {
		xid  uint32
		data string
	}{{737, "a"}, {739, "b"}, {741, "c"}, {740, "d"}, {0, "message"}, {742, "e"}} {
		a.add(t, x, c.xid, c.data)
	}
	for _, xid := range []uint32{741, 742, 740} {
		if err := store.Rollback(737, xid); err != nil {
			t.Fatal(err)
		}
	}
	a.add(t, x, 743, "f")
	if got := read(t, x); !slices.Equal(got, []string{"a", "b", "f"}) {
		t.Error(got)
	}
	store.Reset()
}

// A loop of savepoints costs memory for those that may still be rolled back by themselves only.
func TestManySavepoints(t *testing.T) {
	store := &Store{Limit: 1 << 20}
	x := store.Begin(1)
	var a adder
	for i := range uint32(10_000) {
		a.add(t, x, 2+i, "row")
		if i%2 == 0 {
			if err := store.Rollback(1, 2+i); err != nil {
				t.Fatal(err)
			}
		}
		if i%100 == 0 {
			a.add(t, x, 1, "row")
		}
		if len(x.subs) > 100 {
			t.Fatalf("%d are remembered", len(x.subs))
		}
	}
	if n := len(read(t, x)); n != 5_100 {
		t.Errorf("%d rows", n)
	}
	store.Reset()
}

func TestFileIsPrivateAndUnlinked(t *testing.T) {
	store := &Store{Limit: 1, Dir: t.TempDir()}
	x := store.Begin(1)
	var a adder
	a.add(t, x, 1, "row")
	info, err := x.spool.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Size() != headerSize+3 {
		t.Errorf("mode %v, %d bytes", info.Mode(), info.Size())
	}
	if x.spool.unlink == "" {
		isEmpty(t, store.Dir)
	}
	if store.Size() != headerSize+3 {
		t.Errorf("%d bytes kept", store.Size())
	}
	file := x.spool.file
	store.Reset()
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is not closed: %v", err)
	}
	isEmpty(t, store.Dir)
}

// Where the system does not let one remove an open file, it goes when it is closed.
func TestFileThatCannotBeUnlinkedAtOnce(t *testing.T) {
	store := &Store{Limit: 1, Dir: t.TempDir()}
	x := store.Begin(1)
	var a adder
	a.add(t, x, 1, "row")
	name := filepath.Join(store.Dir, "walchan-1.spool")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x.spool.unlink = name
	store.Reset()
	isEmpty(t, store.Dir)
}

// A rolled-back part gives its room back, on disk too.
func TestCutFile(t *testing.T) {
	store := &Store{Limit: 1, Dir: t.TempDir()}
	x := store.Begin(1)
	var a adder
	a.add(t, x, 1, "keep")
	for range 100 {
		a.add(t, x, 2, "drop")
	}
	if err := store.Rollback(1, 2); err != nil {
		t.Fatal(err)
	}
	info, err := x.spool.file.Stat()
	if err != nil || info.Size() != headerSize+4 || store.Size() != headerSize+4 {
		t.Errorf("%d bytes in the file, %d kept, %v", info.Size(), store.Size(), err)
	}
	a.add(t, x, 3, "keep, too")
	if got := read(t, x); !slices.Equal(got, []string{"keep", "keep, too"}) {
		t.Error(got)
	}
	store.Reset()
}

// The transaction that holds most goes to disk, not the one that has just grown.
func TestBiggestGoesToDisk(t *testing.T) {
	store := &Store{Limit: 10 * chunkSize, Dir: t.TempDir()}
	small, big := store.Begin(1), store.Begin(2)
	var a adder
	row := string(bytes.Repeat([]byte("x"), chunkSize/2))
	for range 8 {
		a.add(t, big, 2, row)
	}
	for range 3 {
		a.add(t, small, 1, row)
	}
	if big.spool.file == nil || small.spool.file != nil {
		t.Errorf("to disk went: big %v, small %v", big.spool.file != nil, small.spool.file != nil)
	}
	store.Reset()
}

func TestErrorsOfTheFile(t *testing.T) {
	store := &Store{Limit: 1, Dir: filepath.Join(t.TempDir(), "missing")}
	if err := store.Begin(1).Add(1, Record{}, 'I', nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	store.Reset()

	// A disk that is full.
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	x := store.Begin(1)
	x.spool.file = full
	if err := x.Add(1, Record{}, 'I', nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("disk full: %v", err)
	}
	store.Reset()

	// A file that was made shorter.
	store.Dir = t.TempDir()
	x = store.Begin(1)
	var a adder
	a.add(t, x, 1, "row")
	for _, size := range []int64{headerSize + 1, headerSize - 1} {
		if err := x.spool.file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range records(x) {
			last = err
		}
		if last == nil {
			t.Errorf("cut to %d bytes: no error", size)
		}
	}
	store.Reset()
}
