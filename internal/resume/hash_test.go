package resume

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// What is stored today is compared by later versions.
func TestHashIsFixed(t *testing.T) {
	h := uint32(0)
	for _, s := range []string{"", "a", "0123456789abcdef", "0123456789abcdef0", "I\x00\x00\x40\x00N\x00\x01t\x00\x00\x00\x011"} {
		h = Hash(h, []byte(s))
	}
	if got := fmt.Sprintf("%08x", h); got != "735e1b92" {
		t.Errorf("the hash is %s", got)
	}
	if got := fmt.Sprintf("%08x", HashBytes(HashBytes(0, []byte("1234")), []byte("56789"))); got != "e3069283" { // the check value of CRC-32C
		t.Errorf("the hash of bytes is %s", got)
	}
}

// One bit of the message, or of what was before, changes about half of the hash; cutting the messages elsewhere changes it, too.
func TestHashTellsMessagesApart(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var flips, changes [32]int
	n := 0
	for size := range 70 {
		for range 20 {
			b := make([]byte, size)
			for i := range b {
				b[i] = byte(r.Uint32() >> (r.UintN(3) * 8)) // also many zeros
			}
			before := r.Uint32()
			h := Hash(before, b)
			for bit := range size*8 + 32 {
				c, was := bytes.Clone(b), before
				if bit < size*8 {
					c[bit/8] ^= 1 << (bit % 8)
				} else {
					was ^= 1 << (bit % 32)
				}
				d := h ^ Hash(was, c)
				if d == 0 {
					t.Fatalf("%x after %x and %x after %x have the same hash", b, before, c, was)
				}
				n++
				for i := range 32 {
					flips[i] += int(d >> i & 1)
				}
				changes[bits.OnesCount32(d)-1]++
			}
			if Hash(before, append(b, 0)) == h || Hash(Hash(before, b), nil) == h {
				t.Fatalf("%x and what is longer have the same hash", b)
			}
		}
	}
	for i, f := range flips {
		if p := float64(f) / float64(n); p < 0.45 || p > 0.55 {
			t.Errorf("bit %d of the hash changes with %.3f of the bits", i, p)
		}
	}
	few := 0
	for _, c := range changes[:5] {
		few += c
	}
	if few > n/1000 {
		t.Errorf("%d of %d changes of one bit change at most 5 bits of the hash", few, n)
	}
}

// As many collisions as chance has, among messages that differ little.
func TestHashCollides(t *testing.T) {
	seen := map[uint32]bool{}
	const n = 1 << 17
	for i := range n {
		seen[Hash(0, fmt.Appendf(nil, "I\x00\x00\x40\x00N\x00\x02t\x00\x00\x00\x08%08dt\x00\x00\x00\x05hello", i))] = true
	}
	if lost := n - len(seen); lost > 12 { // 2 are expected
		t.Errorf("%d collisions among %d", lost, n)
	}
}

func BenchmarkHash(b *testing.B) {
	for _, size := range []int{20, 155, 1000} {
		m := bytes.Repeat([]byte{0x5a}, size)
		b.Run(fmt.Sprint("messages/", size), func(b *testing.B) {
			for h := uint32(0); b.Loop(); {
				h = Hash(h, m)
			}
		})
		b.Run(fmt.Sprint("bytes/", size), func(b *testing.B) {
			for h := uint32(0); b.Loop(); {
				h = HashBytes(h, m)
			}
		})
	}
}
