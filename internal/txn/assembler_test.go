package txn

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/wal"
)

var (
	epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	items = fakewal.Relation{OID: 1, Schema: "public", Name: "items", Columns: []fakewal.Column{{Name: "id", Type: 23}}}
)

// assemble returns what an Assembler makes of messages, a line each.
func assemble(t *testing.T, a *Assembler, messages ...[]byte) (lines []string) {
	t.Helper()
	for i, m := range messages {
		ev, _, err := a.Take(wal.LSN(i), 0, m)
		for ; ; ev, _, err = a.Next() {
			if err != nil {
				t.Fatalf("message %d, %q: %v", i, m[0], err)
			}
			if ev == nil {
				break
			}
			switch ev.Step {
			case Begins:
				lines = append(lines, fmt.Sprintf("begin %d at %d, prepared %v, bare %v", ev.XID, ev.LSN, ev.AtPrepare, ev.Bare))
			case Within:
				switch ev.Type {
				case pgoutput.Insert:
					_, v := pgoutput.Column(ev.Block, ev.N, 0)
					lines = append(lines, "insert "+v+" into "+ev.Table.Name)
				default:
					lines = append(lines, fmt.Sprintf("%c %s", ev.Type, ev.Content))
				}
			case Prepared:
				lines = append(lines, "prepared late")
			case Ends:
				lines = append(lines, fmt.Sprintf("end %d", ev.LSN))
			case Alone:
				lines = append(lines, fmt.Sprintf("alone %c", ev.Type))
			case Describes:
				lines = append(lines, "table "+ev.Table.Name)
			}
		}
	}
	return lines
}

func newAssembler(from wal.LSN) *Assembler {
	a := &Assembler{Store: Store{Limit: 1 << 20}}
	a.Begin(from)
	return a
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// Whatever blocks transactions come in, and whatever is rolled back in them, they come out whole, in the order of their ends.
func TestTransactionsComeOutWhole(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		type transaction struct {
			xid   uint32
			begun bool
			rows  []string // not rolled back
			sub   []string // of its open savepoint
			saved uint32   // XID of that; 0: none
		}
		a := newAssembler(0)
		messages := [][]byte{items.Encode()}
		want := []string{"table items"}
		var open []*transaction
		xid, row, lsn := uint32(100), 0, wal.LSN(1000)
		for range 200 {
			switch n := r.IntN(10); {
			case n < 2 || len(open) == 0:
				xid++
				open = append(open, &transaction{xid: xid})
			case n < 8: // a block
				x := open[r.IntN(len(open))]
				messages = append(messages, fakewal.StreamStart(x.xid, !x.begun))
				x.begun = true
				for range r.IntN(5) {
					switch r.IntN(6) {
					case 0:
						if x.saved == 0 {
							xid++
							x.saved, x.sub = xid, nil
						}
					case 1: // the savepoint is released
						x.rows, x.saved, x.sub = append(x.rows, x.sub...), 0, nil
					default:
						row++
						line := fmt.Sprintf("insert %d into items", row)
						by := x.xid
						if x.saved != 0 {
							by = x.saved
							x.sub = append(x.sub, line)
						} else {
							x.rows = append(x.rows, line)
						}
						messages = append(messages, fakewal.InStream(by, fakewal.Insert(1, fmt.Sprint(row))))
					}
				}
				messages = append(messages, fakewal.StreamStop())
				if x.saved != 0 && r.IntN(3) == 0 {
					messages = append(messages, fakewal.StreamAbort(x.xid, x.saved))
					x.saved, x.sub = 0, nil
				}
			case n == 8: // another one, at once
				xid++
				row++
				lsn += 10
				messages = append(messages, fakewal.Begin(lsn, epoch, xid), fakewal.Insert(1, fmt.Sprint(row)), fakewal.Commit(lsn, lsn+1, epoch))
				want = append(want, fmt.Sprintf("begin %d at %d, prepared false, bare false", xid, lsn), fmt.Sprintf("insert %d into items", row), fmt.Sprintf("end %d", lsn))
			default:
				i := r.IntN(len(open))
				x := open[i]
				open = slices.Delete(open, i, i+1)
				if !x.begun {
					continue
				}
				if r.IntN(4) == 0 {
					messages = append(messages, fakewal.StreamAbort(x.xid, x.xid))
					continue
				}
				lsn += 10
				prepared := r.IntN(3) == 0
				end := fakewal.StreamCommit(x.xid, lsn, lsn+1, epoch)
				if prepared {
					end = fakewal.StreamPrepare(lsn, lsn+1, epoch, x.xid, "gid")
				}
				messages = append(messages, end)
				want = append(want, fmt.Sprintf("begin %d at %d, prepared %v, bare false", x.xid, lsn, prepared))
				want = append(want, x.rows...)
				want = append(want, x.sub...)
				want = append(want, fmt.Sprintf("end %d", lsn))
			}
		}
		if wantLines(t, assemble(t, a, messages...), want...); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		a.Drop()
		if size := a.Store.Size(); size != 0 {
			t.Fatalf("seed %d: %d bytes are kept", seed, size)
		}
	}
}

func TestPreparedTransactions(t *testing.T) {
	rows := [][]byte{items.Encode(), fakewal.Insert(1, "1"), fakewal.Insert(1, "2")}
	prepare := func(lsn wal.LSN) [][]byte {
		return slices.Concat([][]byte{fakewal.BeginPrepare(lsn, lsn+1, epoch, 7, "gid")}, rows, [][]byte{fakewal.Prepare(lsn, lsn+1, epoch, 7, "gid")})
	}
	committed := [][]byte{fakewal.CommitPrepared(200, 201, epoch, 7, "gid")}
	content := []string{"table items", "insert 1 into items", "insert 2 into items"}
	t.Run("at PREPARE", func(t *testing.T) {
		wantLines(t, assemble(t, newAssembler(50), slices.Concat(prepare(100), committed)...), slices.Concat(
			[]string{"begin 7 at 100, prepared true, bare false"}, content, []string{"end 100", "begin 7 at 200, prepared false, bare true", "end 200"})...)
	})
	t.Run("late", func(t *testing.T) { // with its COMMIT PREPARED, because the slot did not know it
		wantLines(t, assemble(t, newAssembler(150), slices.Concat(prepare(100), committed)...), slices.Concat(
			[]string{"begin 7 at 200, prepared false, bare false"}, content, []string{"prepared late", "end 200"})...)
	})
	t.Run("late, and rolled back", func(t *testing.T) {
		a := newAssembler(150)
		wantLines(t, assemble(t, a, append(prepare(100), fakewal.RollbackPrepared(101, 201, epoch, epoch, 7, "gid"))...), "alone r")
		if a.Store.Size() != 0 {
			t.Error("it is kept")
		}
	})
	t.Run("a block of one that came at its PREPARE", func(t *testing.T) { // before PostgreSQL 18
		block := [][]byte{fakewal.StreamStart(7, true), fakewal.InStream(7, fakewal.Insert(1, "1")), fakewal.StreamStop()}
		wantLines(t, assemble(t, newAssembler(150), slices.Concat([][]byte{items.Encode()}, block, committed)...),
			"table items", "begin 7 at 200, prepared false, bare true", "end 200")
	})
	t.Run("empty", func(t *testing.T) { // PostgreSQL 18
		wantLines(t, assemble(t, newAssembler(50), fakewal.Prepare(100, 101, epoch, 7, "gid")), "begin 7 at 100, prepared true, bare false", "end 100")
	})
}

// What is described inside of a transaction in progress holds from its end on, unless the table was described since.
func TestDescriptionsInATransactionInProgress(t *testing.T) {
	other := items
	other.Name = "renamed"
	block := func(messages ...[]byte) (all [][]byte) {
		all = append(all, fakewal.StreamStart(7, true))
		for _, m := range messages {
			all = append(all, fakewal.InStream(7, m))
		}
		return append(all, fakewal.StreamStop())
	}
	end := fakewal.StreamCommit(7, 100, 101, epoch)
	after := [][]byte{fakewal.Begin(200, epoch, 8), fakewal.Insert(1, "9"), fakewal.Commit(200, 201, epoch)}
	t.Run("it holds", func(t *testing.T) {
		wantLines(t, assemble(t, newAssembler(0), slices.Concat([][]byte{items.Encode()}, block(other.Encode(), fakewal.Insert(1, "1")), [][]byte{end}, after)...),
			"table items", "begin 7 at 100, prepared false, bare false", "table renamed", "insert 1 into renamed", "end 100",
			"begin 8 at 200, prepared false, bare false", "insert 9 into renamed", "end 200")
	})
	t.Run("it was described since", func(t *testing.T) {
		wantLines(t, assemble(t, newAssembler(0), slices.Concat(block(items.Encode(), fakewal.Insert(1, "1")), [][]byte{other.Encode(), end}, after)...),
			"table renamed", "begin 7 at 100, prepared false, bare false", "table items", "insert 1 into items", "end 100",
			"begin 8 at 200, prepared false, bare false", "insert 9 into renamed", "end 200")
	})
}
