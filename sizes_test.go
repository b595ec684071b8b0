package walchan

import (
	"math/rand/v2"
	"testing"
)

// sizes against a plain list of what is in the channel.
func TestSizesKnowWhatLiesInTheChannel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		messages, limit := 1+r.IntN(8), 1+r.IntN(100)
		z := sizes{limit: limit, queue: make([]int, messages+1)}
		var in []int // the channel
		for range 300 {
			in = in[r.IntN(len(in)+1):] // the consumer
			total, size := 0, r.IntN(60)
			for _, s := range in {
				total += s
			}
			want := len(in) == 0 || total+size <= limit
			if got := z.fits(len(in), size); got != want {
				t.Fatalf("limit %d: %d behind %d: %t, want %t", limit, size, in, got, want)
			}
			if want && len(in) < messages {
				z.add(size)
				in = append(in, size)
			}
		}
	}
}
