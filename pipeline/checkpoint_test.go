package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

// begins is where the log of a walchantest.Server begins.
const begins walchan.LSN = 0x1000000

// ledger is a sink that keeps what is written, and the checkpoint.
type ledger struct {
	mu     sync.Mutex
	stored walchan.Checkpoint
	rows   []int
	sizes  []int // of the batches
	fail   func(batch []walchan.Message) error
}

func (s *ledger) Write(context.Context, []walchan.Message) error {
	return errors.New("not with its checkpoint")
}

func (s *ledger) Checkpoint(context.Context) (walchan.Checkpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored, nil
}

func (s *ledger) WriteCheckpoint(_ context.Context, batch []walchan.Message, c walchan.Checkpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(batch); err != nil {
			return err
		}
	}
	for _, m := range batch {
		s.rows = append(s.rows, id(m))
	}
	s.sizes = append(s.sizes, len(batch))
	if !c.IsZero() {
		s.stored = c
	}
	return nil
}

// withCheckpoints are the options of a stream that begins with its server's log.
func withCheckpoints(s *ledger) []walchan.Option {
	return []walchan.Option{walchan.WithCheckpointFrom(s.Checkpoint), walchan.WithFrom(begins)}
}

func TestCheckpointsAreWrittenWithTheBatches(t *testing.T) {
	srv := walchantest.NewServer(rows(50)...)
	sink := &ledger{}
	for range 2 { // the second process finds nothing new
		stream := subscribe(t, srv, t.Context(), withCheckpoints(sink)...)
		g := pipeline.New(t.Context(), stream, time.Minute)
		counted := pipeline.Count[walchan.Message](sink)
		dressed := pipeline.Skip(pipeline.Retry(pipeline.Timeout[walchan.Message](counted, time.Minute), pipeline.RetryPolicy{}), nil)
		pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 7}), dressed)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if st := counted.Stats(); st.Errors != 0 {
			t.Errorf("counted %+v", st)
		}
	}
	if want := values(pipeline.Plain(pipeline.New(t.Context(), nil, 0), numbers(50))); !slices.Equal(sink.rows, want) {
		t.Errorf("rows are %v", sink.rows)
	}
	if n := srv.Confirmed(); n != 50 {
		t.Errorf("%d transactions are confirmed", n)
	}
}

// Where every message is left out, what the stream says is stored: after a second, and at the end.
func TestCheckpointOfWhatIsLeftOut(t *testing.T) {
	for name, drop := range map[string]func(*pipeline.Group) <-chan pipeline.Item[walchan.Message]{
		"Filter": func(g *pipeline.Group) <-chan pipeline.Item[walchan.Message] {
			return pipeline.Filter(g, g.Source(), func(walchan.Message) bool { return false })
		},
		"Expand": func(g *pipeline.Group) <-chan pipeline.Item[walchan.Message] {
			return pipeline.Expand(g, g.Source(), func(context.Context, walchan.Message) ([]walchan.Message, error) { return nil, nil })
		},
		"Keyed": func(g *pipeline.Group) <-chan pipeline.Item[walchan.Message] {
			return pipeline.Keyed(g, g.Source(), 3, pipeline.ByKey, func(_ context.Context, m walchan.Message) (walchan.Message, error) { return m, pipeline.ErrSkip })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := walchantest.NewServer(append(rows(20), walchantest.Idle())...)
				sink := &ledger{}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				stream := subscribe(t, srv, ctx, withCheckpoints(sink)...)
				defer srv.Close()
				g := pipeline.New(ctx, stream, time.Minute)
				pipeline.Into(g, pipeline.Batch(g, drop(g), pipeline.Limit{}), sink)
				time.Sleep(1100 * time.Millisecond)
				synctest.Wait()
				writes := len(sink.sizes) // the first one may be where the stream begins
				if n := srv.Confirmed(); n != 20 || len(sink.rows) != 0 || writes < 1 || writes > 2 {
					t.Errorf("after a second %d transactions are confirmed, with writes of %v", n, sink.sizes)
				}
				time.Sleep(10 * time.Second)
				if len(sink.sizes) != writes {
					t.Errorf("there is nothing new to store, and %d writes", len(sink.sizes))
				}
				stop()
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestCheckpointAtTheEnd(t *testing.T) {
	srv := walchantest.NewServer(rows(20)...)
	sink := &ledger{}
	stream := subscribe(t, srv, t.Context(), withCheckpoints(sink)...)
	g := pipeline.New(t.Context(), stream, time.Minute)
	kept := pipeline.Filter(g, g.Source(), func(m walchan.Message) bool { return id(m) < 10 })
	pipeline.Into(g, pipeline.Batch(g, kept, pipeline.Limit{}), sink)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	last := walchantest.Messages(rows(20)...)[19].Checkpoint()
	if n, ok := sink.stored.Compare(last); n != 0 || !ok || len(sink.rows) != 10 {
		t.Errorf("stored is %s with %v, the last one is %s", sink.stored, sink.rows, last)
	}
}

// Nothing is stored that lies ahead of a message that a stage still has.
func TestNoCheckpointAheadOfAnItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walchantest.NewServer(append(rows(20), walchantest.Idle())...)
		sink := &ledger{}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		stream := subscribe(t, srv, ctx, withCheckpoints(sink)...)
		defer srv.Close()
		g := pipeline.New(ctx, stream, time.Minute)
		release := make(chan struct{})
		kept := pipeline.Map(g, g.Source(), func(_ context.Context, m walchan.Message) (walchan.Message, error) {
			if id(m) == 5 {
				<-release
			}
			return m, pipeline.ErrSkip
		})
		pipeline.Into(g, pipeline.Batch(g, kept, pipeline.Limit{}), sink)
		var log bytes.Buffer
		defer slog.SetDefault(slog.Default())
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if n := strings.Count(log.String(), "the slot keeps WAL"); n != 2 { // after one minute and after three
			t.Errorf("log:\n%s", &log)
		}
		before := walchantest.Messages(rows(20)...)[4].Checkpoint()
		if n, _ := sink.stored.Compare(before); n != 0 {
			t.Errorf("stored is %s, and the last one that may be is %s", sink.stored, before)
		}
		close(release)
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// A message counts as stored once the checkpoints of both sinks cover it.
func TestCheckpointsOfTwoSinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walchantest.NewServer(append(rows(20), walchantest.Idle())...)
		first, second := &ledger{}, &ledger{}
		broken := true
		second.fail = func([]walchan.Message) error {
			if broken {
				return errBroken
			}
			return nil
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		stream := subscribe(t, srv, ctx, withCheckpoints(second)...)
		defer srv.Close()
		g := pipeline.New(ctx, stream, time.Minute)
		in := pipeline.Tee(g, g.Source(), 2)
		pipeline.Into(g, pipeline.Batch(g, in[0], pipeline.Limit{}), first)
		kept := pipeline.Filter(g, in[1], func(m walchan.Message) bool { return id(m) == 19 })
		minute := pipeline.RetryPolicy{BackOff: func() backoff.BackOff { return backoff.NewConstantBackOff(time.Minute) }}
		pipeline.Into(g, pipeline.Batch(g, kept, pipeline.Limit{}), pipeline.Retry(second, minute))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := srv.Confirmed(); n != 0 || len(first.rows) != 20 {
			t.Errorf("%d are confirmed, and %d in the first sink", n, len(first.rows))
		}
		second.mu.Lock()
		broken = false
		second.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := srv.Confirmed(); n != 20 {
			t.Errorf("%d are confirmed in the end", n)
		}
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// The checkpoint of a part of a batch is no more than that part's.
func TestCheckpointOfRefusedItems(t *testing.T) {
	msgs := walchantest.Messages(rows(8)...)
	var dead []int
	sink := &ledger{}
	sink.fail = func(batch []walchan.Message) error {
		if slices.ContainsFunc(batch, func(m walchan.Message) bool { return id(m) == 5 }) {
			return &pipeline.RefusedError{Item: -1, Err: errBroken}
		}
		if done := slices.Concat(sink.rows, dead); len(done) > 0 {
			if n, _ := sink.stored.Compare(msgs[slices.Max(done)].Checkpoint()); n > 0 || sink.stored.IsZero() {
				t.Errorf("after the rows %v and %v the checkpoint %s is stored", sink.rows, dead, sink.stored)
			}
		}
		return nil
	}
	s := pipeline.DeadLetter(sink, pipeline.SinkFunc[pipeline.Dead[walchan.Message]](func(_ context.Context, d []pipeline.Dead[walchan.Message]) error {
		dead = append(dead, id(d[0].Item))
		return nil
	})).(pipeline.Checkpointer[walchan.Message])
	last := msgs[7].Checkpoint()
	if err := s.WriteCheckpoint(t.Context(), msgs, last); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sink.rows, []int{0, 1, 2, 3, 4, 6, 7}) || !slices.Equal(dead, []int{5}) || sink.stored != last {
		t.Errorf("rows %v, dead %v, stored %s of %s", sink.rows, dead, sink.stored, last)
	}
	if err := s.WriteCheckpoint(t.Context(), msgs[5:6], last); err != nil || len(dead) != 2 {
		t.Errorf("a batch of one that is refused: %v, dead %v", err, dead)
	}
}

func TestCheckpointsThatDoNotGoTogether(t *testing.T) {
	stored := walchantest.Messages(rows(3)...)[1].Checkpoint()
	for name, test := range map[string]struct {
		sink pipeline.Sink[walchan.Message]
		opts []walchan.Option
		want string
	}{
		"stream without":         {&ledger{}, nil, "WithCheckpointFrom(sink.Checkpoint)"},
		"sink without":           {&store[walchan.Message]{}, withCheckpoints(&ledger{}), "Checkpointer"},
		"sink without, counted":  {pipeline.Count[walchan.Message](&store[walchan.Message]{}), withCheckpoints(&ledger{}), "Checkpointer"},
		"stream begins at start": {&ledger{stored: stored}, withCheckpoints(&ledger{}), "WithCheckpointFrom(sink.Checkpoint)"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := walchantest.NewServer(append(rows(3), walchantest.Idle())...)
			stream := subscribe(t, srv, t.Context(), test.opts...)
			g := pipeline.New(t.Context(), stream, time.Minute)
			pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{}), test.sink)
			if err := g.Wait(); !errors.Is(err, walchan.ErrCheckpoint) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Wait: %v", err)
			}
		})
	}
}

func TestIntoPanicsWithoutCheckpointsOfTheValues(t *testing.T) {
	srv := walchantest.NewServer()
	stream := subscribe(t, srv, t.Context())
	g := pipeline.New(t.Context(), stream, 0)
	defer g.Wait()
	defer func() {
		if r := fmt.Sprint(recover()); !strings.Contains(r, "Checkpoint() walchan.Checkpoint") {
			t.Errorf("panic: %s", r)
		}
	}()
	pipeline.Into(g, nil, pipeline.Sink[int](numberLedger{}))
}

type numberLedger struct{ pipeline.Sink[int] }

func (numberLedger) Checkpoint(context.Context) (c walchan.Checkpoint, err error) { return c, nil }

func (numberLedger) WriteCheckpoint(context.Context, []int, walchan.Checkpoint) error { return nil }
