package pipeline_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestTransactionsAreWhole(t *testing.T) {
	srv := walchantest.NewServer(
		walchantest.Tx(items.Insert(1, "a"), items.Insert(2, "b")),
		walchantest.LogicalMessage(false, "p", "x"),
		items.Insert(3, "c"),
	)
	stream := subscribe(t, srv, t.Context(), walchan.WithTransactions())
	g := pipeline.New(t.Context(), stream, time.Minute)
	var kinds [][]walchan.Kind
	i := 0
	for tx := range pipeline.Transactions(g, g.Source(), pipeline.Limit{}) {
		var ks []walchan.Kind
		for _, m := range tx.Value {
			ks = append(ks, m.Kind)
		}
		kinds = append(kinds, ks)
		if i++; i != 3 {
			tx.Ack()
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	want := [][]walchan.Kind{
		{walchan.Begin, walchan.Insert, walchan.Insert, walchan.Commit},
		{walchan.LogicalMessage},
		{walchan.Begin, walchan.Insert, walchan.Commit},
	}
	if !slices.EqualFunc(kinds, want, slices.Equal[[]walchan.Kind]) {
		t.Errorf("transactions of %v", kinds)
	}
	if u := srv.Unacknowledged(); !slices.Equal(u, []int{5, 6, 7}) {
		t.Errorf("messages %v are not acknowledged", u)
	}
}

// A process that ended within a transaction is followed by one whose stream begins there: what is left of it is an item, also if all
// but its Begin is left.
func TestTransactionsAfterACheckpointWithinOne(t *testing.T) {
	const messages = 4
	for taken := range messages {
		srv := walchantest.NewServer(walchantest.Tx(items.Insert(1, "a"), items.Insert(2, "b")), items.Insert(3, "c"))
		var stored walchan.Checkpoint
		again := func() *walchan.Stream {
			return subscribe(t, srv, t.Context(), walchan.WithTransactions(), walchan.WithFrom(begins), walchan.WithCheckpoint(stored))
		}
		stream := again()
		for range taken {
			m := <-stream.C()
			stored = m.Checkpoint()
			stream.Ack(m)
		}
		stream.Close()
		g := pipeline.New(t.Context(), again(), time.Minute)
		var sizes []int
		for tx := range pipeline.Transactions(g, g.Source(), pipeline.Limit{}) {
			sizes = append(sizes, len(tx.Value))
			tx.Ack()
		}
		if err := g.Wait(); err != nil || !slices.Equal(sizes, []int{messages - taken, 3}) {
			t.Errorf("after %d messages: items of %d messages, %v", taken, sizes, err)
		}
	}
}

func TestTransactionsTogether(t *testing.T) {
	srv := walchantest.NewServer(rows(100)...)
	stream := subscribe(t, srv, t.Context(), walchan.WithTransactions())
	g := pipeline.New(t.Context(), stream, time.Minute)
	several := pipeline.Batch(g, pipeline.Transactions(g, g.Source(), pipeline.Limit{}), pipeline.Limit{Items: 40, Wait: time.Hour})
	var sink store[walchan.Message]
	pipeline.Into(g, pipeline.Concat(g, several), &sink)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(sink.sizes, []int{120, 120, 60}) || srv.Confirmed() != 100 {
		t.Errorf("batches of %v, %d confirmed", sink.sizes, srv.Confirmed())
	}
}

func TestTransactionTooLarge(t *testing.T) {
	large := walchantest.Tx(items.Insert(1, "abcdefgh"), items.Insert(2, "abcdefgh"), items.Insert(3, "abcdefgh"))
	for what, limit := range map[string]pipeline.Limit{"messages": {Items: 3}, "bytes": {Bytes: 20}} {
		t.Run(what, func(t *testing.T) {
			srv := walchantest.NewServer(large)
			stream := subscribe(t, srv, t.Context(), walchan.WithTransactions())
			g := pipeline.New(t.Context(), stream, time.Minute)
			if n := len(values(pipeline.Transactions(g, g.Source(), limit))); n != 0 {
				t.Errorf("%d transactions", n)
			}
			if err := g.Wait(); !errors.Is(err, pipeline.ErrTransactionTooLarge) {
				t.Errorf("Wait: %v", err)
			}
		})
	}
}

func TestTransactionsNeedTheirEnds(t *testing.T) {
	srv := walchantest.NewServer(items.Insert(1, "a"))
	g := pipeline.New(t.Context(), subscribe(t, srv, t.Context()), time.Minute)
	values(pipeline.Transactions(g, g.Source(), pipeline.Limit{}))
	if err := g.Wait(); !errors.Is(err, pipeline.ErrNoTransactions) {
		t.Errorf("Wait: %v", err)
	}
}
