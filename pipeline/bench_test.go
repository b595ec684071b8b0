package pipeline

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/walchantest"
)

// What a pipeline costs: rounds of messages over the bare channel, and over one with stages behind it. The figures are for one
// message.
//
//	go test -run '^$' -bench Stages -benchmem ./pipeline
func BenchmarkStages(b *testing.B) {
	const round = 100_000
	t := walchantest.NewTable("t", "id int primary key", "name text")
	var changes []walchantest.Change
	for i := range 1000 {
		changes = append(changes, t.Insert(i, "some text"))
	}
	msgs := walchantest.Messages(walchantest.Tx(changes...))
	play := func() <-chan walchan.Message {
		c := make(chan walchan.Message, 64)
		go func() {
			defer close(c)
			for i := range round {
				c <- msgs[i%len(msgs)]
			}
		}()
		return c
	}
	same := func(_ context.Context, m walchan.Message) (walchan.Message, error) { return m, nil }
	drop := SinkFunc[walchan.Message](func(context.Context, []walchan.Message) error { return nil })
	limit := Limit{Items: 500, Wait: time.Second}
	stages := func(make func(g *Group, in <-chan Item[walchan.Message]) <-chan Item[walchan.Message]) func() {
		return func() {
			g := New(context.Background(), nil, 0)
			Into(g, Batch(g, make(g, itemsOf(g, play())), limit), drop)
			if err := g.Wait(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, bench := range []struct {
		name string
		run  func()
	}{
		{"bare", func() {
			for m := range play() {
				m.Receipt().Ack()
			}
		}},
		{"map", stages(func(g *Group, in <-chan Item[walchan.Message]) <-chan Item[walchan.Message] { return Map(g, in, same) })},
		{"keyed", stages(func(g *Group, in <-chan Item[walchan.Message]) <-chan Item[walchan.Message] {
			return Keyed(g, in, 8, ByKey, same)
		})},
		{"tee", stages(func(g *Group, in <-chan Item[walchan.Message]) <-chan Item[walchan.Message] {
			outs := Tee(g, in, 2)
			Into(g, Batch(g, outs[1], limit), drop)
			return outs[0]
		})},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				bench.run()
				n += round
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/msg")
		})
	}
}

// itemsOf is Source for messages that come from elsewhere, and are acknowledged.
func itemsOf(g *Group, in <-chan walchan.Message) <-chan Item[walchan.Message] {
	return stage(g, depth, func(out chan<- Item[walchan.Message]) error {
		for m := range in {
			if err := send(g, out, Item[walchan.Message]{m, ack{m.Receipt(), &g.root}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkKeyed is a handler that takes a millisecond, over 1000 items in one lane and in eight.
func BenchmarkKeyed(b *testing.B) {
	for _, lanes := range []int{1, 8} {
		b.Run(fmt.Sprint(lanes, "lanes"), func(b *testing.B) {
			for b.Loop() {
				g := New(context.Background(), nil, 0)
				in := make(chan uint64, 1000)
				for n := range cap(in) {
					in <- uint64(n) * 0x9E3779B97F4A7C15 >> 32
				}
				close(in)
				out := Keyed(g, Plain(g, in), lanes, func(n uint64) (uint64, bool) { return n, false },
					func(_ context.Context, n uint64) (uint64, error) { time.Sleep(time.Millisecond); return n, nil })
				for it := range out {
					it.Ack()
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
