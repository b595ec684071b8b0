package jetstream_test

import (
	"testing"

	"github.com/walchan/walchan/walchantest"
)

// How many changes a second a server in the process stores, in batches of 1000.
func BenchmarkWrite(b *testing.B) {
	nc := dial(b, serve(b))
	orders := walchantest.NewTable("orders", "id bigint primary key", "customer int", "status text", "total numeric")
	const batch, batches = 1000, 20
	var entries []walchantest.Entry
	for i := range batch * batches {
		entries = append(entries, orders.Insert(i, i, "new", "12.50"))
	}
	msgs := walchantest.Messages(entries...)
	name := streamName(b, nc)
	n := 0
	for b.Loop() {
		b.StopTimer()
		api(b, nc).DeleteStream(b.Context(), name)
		sink := open(b, nc, name)
		b.StartTimer()
		for i := 0; i < len(msgs); i += batch {
			write(b, sink, msgs[i:i+batch])
		}
		n += len(msgs)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "changes/s")
}
