package ledger

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestFifoAgainstASlice(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var q fifo[int]
		var model []int
		for i := range 2000 {
			burst := 1
			if r.IntN(100) == 0 {
				burst = r.IntN(3 * short)
			}
			for range burst {
				q.push(i)
				model = append(model, i)
			}
			if r.IntN(3) == 0 {
				n := r.IntN(len(model) + 1)
				q.drop(n)
				model = model[n:]
			}
			if q.len() != len(model) || len(model) > 0 && *q.last() != model[len(model)-1] || r.IntN(50) == 0 && !slices.Equal(q.all(), model) {
				t.Fatalf("%d elements, not %d", q.len(), len(model))
			}
			if c := cap(q.items); c > 16*short && len(model) == 0 {
				t.Fatalf("an empty one keeps memory for %d", c)
			}
		}
	}
}

func TestFifoAllocatesNothingFromOneBacklogToTheNext(t *testing.T) {
	var q fifo[mark]
	cycle := func() {
		for range short / 2 {
			q.push(mark{})
			q.push(mark{})
			q.drop(1)
		}
		q.drop(q.len())
	}
	cycle()
	if n := testing.AllocsPerRun(20, cycle); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
