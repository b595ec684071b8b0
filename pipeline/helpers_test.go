package pipeline_test

import (
	"context"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(m, nil))
}

var items = walchantest.NewTable("items", "id int primary key", "name text")

// rows are n transactions of an INSERT each, of the rows 0 to n-1.
func rows(n int) (entries []walchantest.Entry) {
	for i := range n {
		entries = append(entries, items.Insert(i, "x"))
	}
	return entries
}

func subscribe(t testing.TB, srv *walchantest.Server, ctx context.Context, opts ...walchan.Option) *walchan.Stream {
	t.Helper()
	stream, err := srv.Subscribe(ctx, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return stream
}

// id is the number in the first column of the row.
func id(m walchan.Message) int {
	row := m.New()
	if row.Len() == 0 {
		row = m.Old()
	}
	n, err := strconv.Atoi(row.Text(0))
	if err != nil {
		panic(err)
	}
	return n
}

func toID(_ context.Context, m walchan.Message) (int, error) { return id(m), nil }

// store is a sink that keeps what is written.
type store[T any] struct {
	mu    sync.Mutex
	items []T
	sizes []int // of the batches
	fail  func(batch []T) error
}

func (s *store[T]) Write(_ context.Context, batch []T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(batch); err != nil {
			return err
		}
	}
	s.items = append(s.items, batch...)
	s.sizes = append(s.sizes, len(batch))
	return nil
}

func (s *store[T]) all() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]T(nil), s.items...)
}

// numbers is a channel of the numbers from 0 to n-1.
func numbers(n int) <-chan int {
	c := make(chan int, n)
	for i := range n {
		c <- i
	}
	close(c)
	return c
}

// values receives all items and acknowledges them.
func values[T any](in <-chan pipeline.Item[T]) (all []T) {
	for it := range in {
		all = append(all, it.Value)
		it.Ack()
	}
	return all
}
