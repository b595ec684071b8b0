package pgoutput_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/fakewal"
	"github.com/walchan/walchan/internal/pgoutput"
)

func BenchmarkDecode(b *testing.B) {
	for _, columns := range []int{4, 10, 30, 100} {
		row := make([]any, columns)
		for i := range row {
			row[i] = fmt.Sprintf("value of %d", i)
		}
		b.Run(fmt.Sprintf("insert/columns=%d", columns), func(b *testing.B) {
			decode(b, fakewal.Insert(16400, row...))
		})
	}
	row := []any{"1", "a", "b", "c"}
	b.Run("update/old=full", func(b *testing.B) { decode(b, fakewal.Update(16400, 'O', row, row)) })
}

func decode(b *testing.B, message []byte) {
	var d pgoutput.Decoder
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(message); err != nil {
			b.Fatal(err)
		}
	}
}

// Small rows share memory, and stay what they are.
func TestRowsShareMemory(t *testing.T) {
	var d pgoutput.Decoder
	var blocks, want []string
	row := func(i int) []byte {
		return fakewal.Insert(16400, fmt.Sprint(i), strings.Repeat(string(rune('a'+i%26)), i*7%400))
	}
	for i := range 1000 {
		var alone pgoutput.Decoder
		ev, err := alone.Decode(row(i))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, strings.Clone(ev.Block))
		if ev, err = d.Decode(row(i)); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, ev.Block)
	}
	for i := range blocks {
		if blocks[i] != want[i] {
			t.Fatalf("row %d is %q, and was %q", i, blocks[i], want[i])
		}
	}
	for size, most := range map[int]float64{40: 0.2, 1000: 1} {
		message := fakewal.Insert(16400, "1", strings.Repeat("x", size))
		if n := testing.AllocsPerRun(1000, func() { _, _ = d.Decode(message) }); n > most {
			t.Errorf("a row with %d bytes: %v allocations", size, n)
		}
	}
}

func BenchmarkColumn(b *testing.B) {
	const columns = 10
	row := make([]any, columns)
	for i := range row {
		row[i] = fmt.Sprintf("value of %d", i)
	}
	var d pgoutput.Decoder
	ev, err := d.Decode(fakewal.Insert(16400, row...))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		pgoutput.Column(ev.Block, columns, columns-1)
	}
}
