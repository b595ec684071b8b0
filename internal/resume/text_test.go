package resume

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func random(r *rand.Rand) Checkpoint {
	name := func() string {
		b := make([]byte, r.IntN(6))
		for i := range b {
			b[i] = "ab:% \x00é~"[r.IntN(9)]
		}
		return string(b)
	}
	c := Checkpoint{Origin: Origin{SystemID: "7412345678901234567", Slot: name(), Timeline: int32(r.Uint32() >> 1)}}
	c.Through, c.Hash = LSN(r.Uint64()), r.Uint32()
	if r.IntN(3) == 0 {
		c.Physical, c.From = true, LSN(r.Uint64())
		return c
	}
	c.Database, c.Started = name(), int64(r.Uint64()>>1)
	c.Message, c.Commit, c.XID, c.Time = []LSN{0, c.Through, LSN(r.Uint64())}[r.IntN(3)], LSN(r.Uint64()), r.Uint32(), int64(r.Uint64())
	c.Prepared, c.Ordinal = r.IntN(2) == 0, r.Uint32()
	return c
}

func TestTextIsReadBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		c := random(r)
		text := c.String()
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q is not one line of ASCII", text)
		}
		if got, err := Parse(text); got != c || err != nil {
			t.Fatalf("%q is read as %+v, %v; want %+v", text, got, err, c)
		}
	}
}

// A text that lacks its end, or has one other byte, is refused.
func TestTornText(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		text := random(r).String()
		for i := range text {
			if _, err := Parse(text[:i]); err == nil {
				t.Fatalf("%q was cut off at %d, and is read", text, i)
			}
			b := []byte(text)
			b[i] ^= 1 << r.IntN(7)
			if _, err := Parse(string(b)); err == nil {
				t.Fatalf("%q has another byte at %d, and is read", text, i)
			}
		}
	}
}

func TestTexts(t *testing.T) {
	for text, want := range map[string]error{
		"none": nil,
		"wc1:7412345678901234567:shop:orders:1:1769900000000000:0/16B3748:0/16B3700:689:822000000000000:2:0A1B2C3D:206FAD18": nil,
		"wc1:7412345678901234567:shop:orders:1:1769900000000000:0/16B3748:0/16B3700:689:822000000000000:2:0A1B2C3D:206FAD19": ErrTorn,
		"":            ErrTorn,
		"None":        ErrTorn,
		"wc1":         ErrTorn,
		"wc2:x":       ErrNewer,
		"wp3":         ErrNewer,
		"wcx:":        ErrTorn,
		"0/16B3748:2": ErrTorn,
	} {
		if _, err := Parse(text); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
	if c := (Checkpoint{}); c.String() != "none" {
		t.Errorf("the zero checkpoint is %q", c)
	}
}

func BenchmarkText(b *testing.B) {
	c := Checkpoint{Origin: Origin{SystemID: "7412345678901234567", Database: "shop", Slot: "orders", Timeline: 1, Started: 1769900000000000}}
	c.Through, c.Commit, c.XID, c.Time, c.Ordinal, c.Hash = 0x16B3748, 0x16B3700, 689, 822000000000000, 2, 0x0A1B2C3D
	b.ReportAllocs()
	for b.Loop() {
		c.Through += 0x80
		_ = c.String()
	}
}

func FuzzParse(f *testing.F) {
	f.Add("none")
	f.Add("wc1:1:a:b:1:2:0/3m:0/4:5p:6:7:00000008:00000000")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err == nil && c.String() != text {
			t.Errorf("%q is read as %q", text, c)
		}
	})
}
