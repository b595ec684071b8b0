package pipeline_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestAllThatIsStoredIsAcknowledged(t *testing.T) {
	const n = 3000
	srv := walchantest.NewServer(rows(n)...)
	stream := subscribe(t, srv, t.Context())
	var sink store[int]
	g := pipeline.New(t.Context(), stream, time.Minute)
	ids := pipeline.Keyed(g, g.Source(), 4, pipeline.ByKey, toID)
	pipeline.Into(g, pipeline.Batch(g, ids, pipeline.Limit{Items: 100}), &sink)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	got := sink.all()
	slices.Sort(got)
	if len(got) != n || got[0] != 0 || got[n-1] != n-1 {
		t.Errorf("%d of %d rows are stored", len(got), n)
	}
	if u := srv.Unacknowledged(); u != nil || srv.Confirmed() != n {
		t.Errorf("messages %v are not acknowledged, %d transactions confirmed", u, srv.Confirmed())
	}
}

var errBroken = errors.New("broken")

// The first error stops all: nothing is acknowledged any more, the stream is closed, Wait returns the cause.
func TestFirstErrorStopsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walchantest.NewServer(append(rows(500), walchantest.Idle())...)
		stream := subscribe(t, srv, t.Context())
		defer srv.Close()
		broken, late := make(chan struct{}), errors.New("late")
		g := pipeline.New(t.Context(), stream, time.Minute)
		branches := pipeline.Tee(g, g.Source(), 2)
		g.Go(func(ctx context.Context) error { // acknowledges behind the error
			var held []pipeline.Item[walchan.Message]
			for it := range branches[0] {
				if held = append(held, it); len(held) == 20 {
					break
				}
			}
			close(broken)
			<-ctx.Done()
			for _, it := range held {
				it.Ack()
			}
			return late
		})
		g.Go(func(context.Context) error {
			for range 20 {
				(<-branches[1]).Ack()
			}
			<-broken
			return errBroken
		})
		if err := g.Wait(); err != errBroken {
			t.Errorf("Wait: %v", err)
		}
		select {
		case _, ok := <-stream.C():
			for ok {
				_, ok = <-stream.C()
			}
		default:
			t.Error("the stream is not closed")
		}
		if n := srv.Confirmed(); n != 0 {
			t.Errorf("%d transactions are confirmed behind the error", n)
		}
		if n := stream.Stats().LateAcks; n != 0 {
			t.Errorf("%d acknowledgements reached the stream", n)
		}
	})
}

// A stage that fails is not the end of its output: what is incomplete behind it is not completed.
func TestBatchBehindAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := pipeline.New(t.Context(), nil, 0)
		failing := pipeline.Map(g, pipeline.Plain(g, numbers(10)), func(_ context.Context, n int) (int, error) {
			if n == 5 {
				synctest.Wait() // the batch waits for more
				return 0, errBroken
			}
			return n, nil
		})
		if b := values(pipeline.Batch(g, failing, pipeline.Limit{Items: 10, Wait: time.Hour})); b != nil {
			t.Errorf("batches %v", b)
		}
		if err := g.Wait(); err != errBroken {
			t.Errorf("Wait: %v", err)
		}
	})
}

// Cancelling the context stops the source alone: what is in flight runs on to the sinks.
func TestCancelledContextLetsRunOnWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		srv := walchantest.NewServer(rows(1000)...)
		stream := subscribe(t, srv, t.Context()) // it goes on
		defer srv.Close()
		var sink store[int]
		g := pipeline.New(ctx, stream, 20*time.Second)
		slow := pipeline.Map(g, g.Source(), func(ctx context.Context, m walchan.Message) (int, error) {
			if id(m) == 10 {
				cancel()
			}
			time.Sleep(100 * time.Millisecond)
			return id(m), ctx.Err()
		})
		pipeline.Into(g, pipeline.Batch(g, slow, pipeline.Limit{Wait: time.Hour}), &sink)
		if err := g.Wait(); err != nil {
			t.Errorf("Wait: %v", err)
		}
		got := sink.all()
		if n := len(got); n <= 10 || n == 1000 {
			t.Errorf("%d rows are stored", n)
		}
		if srv.Confirmed() != len(got) {
			t.Errorf("%d rows are stored, but %d confirmed", len(got), srv.Confirmed())
		}
	})
}

func TestGraceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		srv := walchantest.NewServer(append(rows(10), walchantest.Idle())...)
		stream := subscribe(t, srv, ctx)
		defer srv.Close()
		g := pipeline.New(ctx, stream, 3*time.Second)
		stuck := pipeline.SinkFunc[walchan.Message](func(ctx context.Context, _ []walchan.Message) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{}), stuck)
		began := time.Now()
		if err := g.Wait(); err != pipeline.ErrGrace {
			t.Errorf("Wait: %v", err)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("the grace lasted %v", d)
		}
		if n := srv.Confirmed(); n != 0 {
			t.Errorf("%d transactions are confirmed", n)
		}
	})
}

// What the stream has delivered before a permanent error may be the last copy: it reaches the sinks.
func TestPermanentErrorOfTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walchantest.NewServer(append(rows(300), walchantest.Fail(errBroken))...)
		stream := subscribe(t, srv, t.Context())
		defer srv.Close()
		var sink store[int]
		g := pipeline.New(t.Context(), stream, time.Minute)
		slow := pipeline.Map(g, g.Source(), func(_ context.Context, m walchan.Message) (int, error) {
			time.Sleep(time.Millisecond)
			return id(m), nil
		})
		pipeline.Into(g, pipeline.Batch(g, slow, pipeline.Limit{}), &sink)
		if err := g.Wait(); !errors.Is(err, errBroken) || err != stream.Err() {
			t.Errorf("Wait: %v", err)
		}
		if n := len(sink.all()); n != 300 {
			t.Errorf("%d of 300 rows are stored", n)
		}
	})
}

func TestSourceIsOne(t *testing.T) {
	for what, source := range map[string]func(*testing.T, *pipeline.Group){
		"second call": func(t *testing.T, g *pipeline.Group) { g.Source() },
		"no stream":   func(t *testing.T, _ *pipeline.Group) { pipeline.New(t.Context(), nil, 0).Source() },
	} {
		t.Run(what, func(t *testing.T) {
			g := pipeline.New(t.Context(), subscribe(t, walchantest.NewServer(), t.Context()), 0)
			g.Source()
			defer g.Wait()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			source(t, g)
		})
	}
}
