package pgoutput_test

import (
	"fmt"
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
