package postgres_test

import (
	"fmt"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/walchantest"
)

// How many changes a second are applied, in batches of 1000 rows of four columns: inserts, then updates of all.
func BenchmarkWrite(b *testing.B) {
	db := pgtest.Database(b)
	db.Exec(b, "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, status text, total numeric)")
	orders := walchantest.NewTable("orders", "id bigint primary key", "customer int", "status text", "total numeric")
	const batch, batches = 1000, 20
	var inserts, updates []walchantest.Entry
	for n := range batches {
		var in, up []walchantest.Change
		for i := range batch {
			id := n*batch + i
			in = append(in, orders.Insert(id, i, "new", "12.50"))
			up = append(up, orders.Update(id, i, fmt.Sprint("paid ", n), "13.50"))
		}
		inserts, updates = append(inserts, walchantest.Tx(in...)), append(updates, walchantest.Tx(up...))
	}
	msgs := walchantest.Messages(append(inserts, updates...)...)
	n := 0
	for b.Loop() {
		b.StopTimer()
		db.Exec(b, "TRUNCATE orders", "DROP TABLE IF EXISTS walchan_position")
		sink := open(b, db)
		if _, err := sink.Checkpoint(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for i := 0; i < len(msgs); i += batch {
			if err := sink.Write(b.Context(), msgs[i:i+batch]); err != nil {
				b.Fatal(err)
			}
		}
		n += len(msgs)
		sink.Close()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "changes/s")
}
