package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestMapExpandFilter(t *testing.T) {
	g := pipeline.New(t.Context(), nil, 0)
	doubled := pipeline.Map(g, pipeline.Plain(g, numbers(10)), func(_ context.Context, n int) (string, error) {
		if n == 3 {
			return "", fmt.Errorf("not that one: %w", pipeline.ErrSkip)
		}
		return fmt.Sprint(2 * n), nil
	})
	kept := pipeline.Filter(g, doubled, func(s string) bool { return s != "8" })
	letters := pipeline.Expand(g, kept, func(_ context.Context, s string) ([]rune, error) {
		if s == "0" {
			return nil, nil
		}
		return []rune(s), nil
	})
	if got := string(values(letters)); got != "241012141618" {
		t.Errorf("got %s", got)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// Messages are acknowledged with the last of what was made of them; what is dropped is acknowledged.
func TestAcknowledgedWithTheLastPart(t *testing.T) {
	srv := walchantest.NewServer(rows(9)...)
	stream := subscribe(t, srv, t.Context())
	g := pipeline.New(t.Context(), stream, time.Minute)
	odd := pipeline.Filter(g, g.Source(), func(m walchan.Message) bool { return id(m)%2 == 1 })
	parts := pipeline.Expand(g, odd, func(_ context.Context, m walchan.Message) ([]int, error) {
		return slices.Repeat([]int{id(m)}, id(m)-1), nil // none of 1, two of 3, …
	})
	branches := pipeline.Tee(g, parts, 2)
	for range 2 + 4 + 6 {
		it := <-branches[0]
		if it.Value != 5 {
			it.Ack()
		}
		(<-branches[1]).Ack()
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if u := srv.Unacknowledged(); !slices.Equal(u, []int{5}) {
		t.Errorf("messages %v are not acknowledged, want 5 alone", u)
	}
}

func TestOwnStageOfSplitAndJoin(t *testing.T) {
	srv := walchantest.NewServer(rows(6)...)
	stream := subscribe(t, srv, t.Context())
	g := pipeline.New(t.Context(), stream, time.Minute)
	sums := make(chan pipeline.Item[int])
	g.Go(func(context.Context) error { // pairs, summed up; and of each sum two
		defer close(sums)
		in := g.Source()
		for a := range in {
			b := <-in
			sum := id(a.Value) + id(b.Value)
			for _, it := range pipeline.Split(pipeline.Join([]pipeline.Item[walchan.Message]{a, b}, sum), []int{sum, -sum}) {
				sums <- it
			}
		}
		return nil
	})
	for it := range sums {
		if it.Value != -5 { // of 2 and 3
			it.Ack()
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if u := srv.Unacknowledged(); !slices.Equal(u, []int{2, 3}) {
		t.Errorf("messages %v are not acknowledged, want 2 and 3", u)
	}
}

func TestKeyedKeepsTheOrderOfEachKey(t *testing.T) {
	g := pipeline.New(t.Context(), nil, 0)
	var running, alone atomic.Int32
	out := pipeline.Keyed(g, pipeline.Plain(g, numbers(20_000)), 8,
		func(n int) (uint64, bool) { return uint64(n % 37), n%1000 == 999 },
		func(_ context.Context, n int) (int, error) {
			if now := running.Add(1); n%1000 == 999 && now != 1 {
				alone.Add(1)
			}
			running.Add(-1)
			return n, nil
		})
	last, barrier, seen := map[int]int{}, -1, 0
	for it := range out {
		n := it.Value
		if l, ok := last[n%37]; ok && l > n {
			t.Fatalf("%d came behind %d of the same key", n, l)
		}
		if n < barrier {
			t.Fatalf("%d came behind the barrier %d", n, barrier)
		}
		if n%1000 == 999 {
			barrier = n
			if seen != n {
				t.Fatalf("%d items came before the barrier %d", seen, n)
			}
		}
		last[n%37] = n
		seen++
	}
	if err := g.Wait(); err != nil || seen != 20_000 || alone.Load() != 0 {
		t.Errorf("%d items, %d barriers not alone, %v", seen, alone.Load(), err)
	}
}

// With a handler that takes 1 ms, 8 lanes do at least 7 times as much as one, if the keys are uniform.
func TestKeyedWorksInParallel(t *testing.T) {
	took := func(lanes int) (d time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			const n = 8000
			g := pipeline.New(t.Context(), nil, 0)
			began := time.Now()
			values(pipeline.Keyed(g, pipeline.Plain(g, numbers(n)), lanes,
				func(n int) (uint64, bool) { return uint64(n*2654435761) >> 7, false },
				func(_ context.Context, n int) (int, error) { time.Sleep(time.Millisecond); return n, nil }))
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			d = time.Since(began)
		})
		return d
	}
	one, eight := took(1), took(8)
	if one < 7*eight {
		t.Errorf("one lane takes %v, eight take %v", one, eight)
	}
	t.Logf("one lane takes %v, eight take %v", one, eight)
}

func TestKeyedFails(t *testing.T) {
	for _, at := range []int{0, 50, 99} { // 99 is a barrier
		g := pipeline.New(t.Context(), nil, 0)
		got := values(pipeline.Keyed(g, pipeline.Plain(g, numbers(100)), 4, func(n int) (uint64, bool) { return uint64(n), n == 99 },
			func(_ context.Context, n int) (int, error) {
				if n == at {
					return 0, errBroken
				}
				return n, nil
			}))
		if err := g.Wait(); err != errBroken || slices.Contains(got, at) {
			t.Errorf("Wait: %v", err)
		}
	}
}

func TestByKey(t *testing.T) {
	full := walchantest.NewTable("full", "id int", "name text").ReplicaIdentityFull()
	keyless := walchantest.NewTable("keyless", "id int")
	other := walchantest.NewTable("other", "id int primary key", "name text")
	msgs := walchantest.Messages(
		items.Insert(1, "a"), items.Update(1, "b"), items.Delete(1), // the same key
		items.Update(1, "b").From(2, "b"), // it changes
		walchantest.Truncate(items),
		walchantest.LogicalMessage(false, "p", "x"),
		keyless.Insert(1),
		items.Insert(2, "a"), other.Insert(1, "a"), // others
		full.Insert(1, "a"), full.Delete(1, "a"), // the same
		full.Update(1, "b").From(1, "a"),
	)
	keys := map[int]uint64{}
	for i, want := range []bool{false, false, false, true, true, true, true, false, false, false, false, true} {
		k, barrier := pipeline.ByKey(msgs[i])
		if barrier != want {
			t.Errorf("%v is a barrier: %v", msgs[i], barrier)
		}
		keys[i] = k
	}
	if keys[0] != keys[1] || keys[1] != keys[2] || keys[9] != keys[10] {
		t.Error("the key of one row differs")
	}
	if keys[0] == keys[7] || keys[0] == keys[8] {
		t.Error("different rows have one key")
	}
	byID := pipeline.ByColumns("id")
	k, barrier := byID(msgs[11])
	if before, _ := byID(msgs[9]); barrier || k != before {
		t.Error("the id has not changed")
	}
	if _, barrier := pipeline.ByColumns("nothing")(msgs[0]); !barrier {
		t.Error("there is no such column")
	}
}

func TestBatchLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := pipeline.New(t.Context(), nil, 0)
		in := make(chan string)
		batches := pipeline.Batch(g, pipeline.Plain(g, in), pipeline.Limit{Items: 4, Bytes: 10, Wait: time.Second})
		began := time.Now()
		expect := func(after time.Duration, want ...string) {
			t.Helper()
			if b := <-batches; !slices.Equal(b.Value, want) || time.Since(began) != after {
				t.Errorf("%v after %v, want %v after %v", b.Value, time.Since(began), want, after)
			}
		}
		go func() {
			for _, s := range []string{"a", "b", "c", "d", "0123456789", "x", "123456789"} {
				in <- s
			}
			time.Sleep(500 * time.Millisecond)
			in <- "e"
			time.Sleep(700 * time.Millisecond)
			in <- "f"
			time.Sleep(time.Minute)
			in <- "g"
			close(in)
		}()
		expect(0, "a", "b", "c", "d")
		expect(0, "0123456789")
		expect(0, "x", "123456789")
		expect(1500*time.Millisecond, "e", "f")
		expect(61200*time.Millisecond, "g")
		if _, ok := <-batches; ok {
			t.Error("another batch")
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// Without Wait a batch is what has come while the sink was busy.
func TestBatchWithoutWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := pipeline.New(t.Context(), nil, 0)
		batches := pipeline.Batch(g, pipeline.Plain(g, numbers(10)), pipeline.Limit{Items: 7})
		synctest.Wait() // all is there, and nobody takes it
		var sizes []int
		for b := range batches {
			sizes = append(sizes, len(b.Value))
			synctest.Wait()
		}
		if !slices.Equal(sizes, []int{7, 3}) {
			t.Errorf("batches of %v", sizes)
		}
		g.Wait()
	})
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := pipeline.New(t.Context(), nil, 0)
		in := make(chan int)
		out := pipeline.Throttle(g, pipeline.Plain(g, in), 10, 3)
		go func() {
			defer close(in)
			for i := range 6 {
				in <- i
			}
			time.Sleep(10 * time.Second)
			for i := range 4 {
				in <- i
			}
		}()
		began := time.Now()
		var at []int
		for range out {
			at = append(at, int(time.Since(began).Milliseconds()))
		}
		t.Log(at)
		if len(at) != 10 || at[2] != 0 || at[3] != 100 || at[5] != 300 {
			t.Errorf("passed at %v ms", at)
		}
		if at[8] != at[6] || at[9] != at[6]+100 {
			t.Errorf("behind the pause passed at %v ms", at[6:])
		}
		g.Wait()
	})
}
