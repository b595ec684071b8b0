package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

// model knows of each message how many parts the stages have made of it and how many of these were stored: it may be
// acknowledged when all were.
type model struct {
	mu     sync.Mutex
	made   map[int]int // parts that are to be stored; not there: not yet known
	stored map[int]int
}

func (m *model) make(id, parts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made[id] += parts
}

func (m *model) store(id int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored[id]++
}

func (m *model) done(id int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	made, ok := m.made[id]
	return ok && m.stored[id] >= made
}

// part is what a message was made into.
type part struct{ id, n int }

// randomPipeline puts random stages between the source and one or two sinks, of which each stores all parts. trouble is called
// for every item at every stage, and its error is the stage's.
func randomPipeline(g *pipeline.Group, r *rand.Rand, m *model, trouble func() error) (shape string) {
	sinks := 1 + r.IntN(2)
	parts := pipeline.Expand(g, g.Source(), func(_ context.Context, msg walchan.Message) ([]part, error) {
		n := id(msg)
		ps := make([]part, n%4)
		for i := range ps {
			ps[i] = part{n, i}
		}
		m.make(n, len(ps)*sinks)
		return ps, trouble()
	})
	shape = "expand"
	for range r.IntN(4) {
		pass := func(_ context.Context, p part) (part, error) { return p, trouble() }
		switch r.IntN(5) {
		case 0:
			parts, shape = pipeline.Map(g, parts, pass), shape+" map"
		case 1:
			parts, shape = pipeline.Keyed(g, parts, 1+r.IntN(4), func(p part) (uint64, bool) { return uint64(p.id), p.id%50 == 0 }, pass), shape+" keyed"
		case 2:
			parts, shape = pipeline.Throttle(g, parts, 1e6, 100), shape+" throttle"
		case 3:
			batches := pipeline.Batch(g, parts, pipeline.Limit{Items: 1 + r.IntN(20), Wait: time.Duration(r.IntN(3)) * time.Millisecond})
			parts = pipeline.Expand(g, batches, func(_ context.Context, ps []part) ([]part, error) { return ps, trouble() })
			shape += " batch expand"
		case 4:
			n := r.IntN(7)
			parts = pipeline.Filter(g, parts, func(p part) bool {
				if p.id%7 == n {
					for range sinks {
						m.store(p.id) // dropped
					}
					return false
				}
				return true
			})
			shape += " filter"
		}
	}
	branches := []<-chan pipeline.Item[part]{parts}
	if sinks == 2 {
		branches, shape = pipeline.Tee(g, parts, 2), shape+" tee"
	}
	for _, branch := range branches {
		batches := pipeline.Batch(g, branch, pipeline.Limit{Items: 1 + r.IntN(50), Wait: time.Duration(r.IntN(3)) * time.Millisecond})
		pipeline.Into(g, batches, pipeline.SinkFunc[part](func(ctx context.Context, ps []part) error {
			runtime.Gosched()
			if err := trouble(); err != nil {
				return err
			}
			for _, p := range ps {
				m.store(p.id)
			}
			return nil
		}))
	}
	return shape
}

// Whatever the stages, and wherever they are cancelled or fail: nothing is acknowledged before all that was made of it is
// stored; a pipeline that ends without an error has acknowledged all it has taken; what follows a restart completes the rest.
func TestAcknowledgementsAreThoseOfTheModel(t *testing.T) {
	r := pgtest.Seeded(t)
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	const n = 400
	for range rounds {
		srv := walchantest.NewServer(rows(n)...)
		for restart := 0; srv.Confirmed() < n; restart++ {
			m, first := &model{made: map[int]int{}, stored: map[int]int{}}, srv.Confirmed()
			ctx, cancel := context.WithCancel(t.Context())
			life := ctx
			if r.IntN(2) == 0 {
				life = t.Context() // the stream's own: it does not stop with the group
			}
			stream, err := srv.Subscribe(life)
			if err != nil {
				t.Fatal(err)
			}
			when, how := time.Duration(r.IntN(4000))*time.Microsecond, r.IntN(3)
			if restart > 5 {
				how = 2
			}
			var broken error
			var mu sync.Mutex
			trouble := func() error {
				mu.Lock()
				defer mu.Unlock()
				return broken
			}
			event := time.AfterFunc(when, func() {
				switch how {
				case 0:
					cancel()
				case 1:
					mu.Lock()
					defer mu.Unlock()
					broken = errBroken
				}
			})
			g := pipeline.New(ctx, stream, time.Minute)
			shape := randomPipeline(g, r, m, trouble)
			tooEarly := watch(stream, srv, m, first)
			err = g.Wait()
			event.Stop()
			cancel()
			if err := tooEarly(); err != nil {
				t.Fatalf("%s, %v after %v: %v", shape, []string{"cancelled", "broken", ""}[how], when, err)
			}
			if err != nil && !(how == 1 && errors.Is(err, errBroken)) {
				t.Fatalf("%s: Wait: %v", shape, err)
			}
			if how == 2 && (err != nil || srv.Unacknowledged() != nil || srv.Confirmed() != n) {
				t.Fatalf("%s: %v, not acknowledged are %v, confirmed %d", shape, err, srv.Unacknowledged(), srv.Confirmed())
			}
			for i := first; i < srv.Confirmed(); i++ {
				if !m.done(i) {
					t.Fatalf("%s: row %d was confirmed, and of %d parts %d are stored", shape, i, m.made[i], m.stored[i])
				}
			}
		}
		srv.Close()
	}
}

// watch looks, while the pipeline runs and when what it returns is called, whether each acknowledged message is done. The
// stream's first message is the row number first.
func watch(stream *walchan.Stream, srv *walchantest.Server, m *model, first int) func() error {
	look := func() error {
		delivered := int(stream.Stats().Delivered)
		open := srv.Unacknowledged()
		for i := range delivered {
			if !slices.Contains(open, i) && !m.done(first+i) {
				return fmt.Errorf("row %d was acknowledged too early", first+i)
			}
		}
		return nil
	}
	stop, result := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for err == nil {
			select {
			case <-stop:
				result <- look()
				return
			case <-time.After(time.Millisecond):
				err = look()
			}
		}
		<-stop
		result <- err
	}()
	return func() error {
		close(stop)
		return <-result
	}
}
