package pipeline_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if left := lasting(goroutines); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind by some test:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// goroutines returns the stacks of all goroutines apart from those of the tests.
func goroutines() string {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	_, stacks, _ := strings.Cut(b.String(), "\n")
	var left []string
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if strings.TrimSpace(stack) != "" && !strings.Contains(stack, "runtime/pprof.(*Profile).WriteTo") &&
			!strings.Contains(stack, "internal/pgtest.") {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// lasting returns what f still returns after a while: goroutines may be on their way out.
func lasting(f func() string) (left string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if left = f(); left == "" {
			break
		}
	}
	return left
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

// seeded returns random numbers whose seed is printed, and can be given.
func seeded(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
