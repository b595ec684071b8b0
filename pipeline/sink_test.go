package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestRetryUntilTheSinkIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var sink store[int]
		sink.fail = func([]int) error {
			if time.Since(began) < time.Hour {
				return errBroken
			}
			return nil
		}
		var log bytes.Buffer
		counted := pipeline.Count[int](&sink)
		s := pipeline.Retry(counted, pipeline.RetryPolicy{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		done := make(chan error)
		go func() { done <- s.Write(t.Context(), []int{1, 2}) }()
		time.Sleep(time.Minute)
		if st := counted.Stats(); st.Err != errBroken || !st.Failing.Equal(began) || st.Errors < 5 || st.Batches != 0 {
			t.Errorf("while it fails: %+v", st)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if st := counted.Stats(); st.Err != nil || !st.Failing.IsZero() || st.Items != 2 || st.Batches != 1 {
			t.Errorf("when it works: %+v", st)
		}
		if d := time.Since(began); d > time.Hour+time.Minute {
			t.Errorf("it took %v", d)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("log:\n%s", &log)
		}
	})
}

func TestRetryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errors.New("enough"))
		defer cancel()
		quiet := slog.New(slog.DiscardHandler)
		attempts := 0
		failing := func(err error) pipeline.Sink[int] {
			attempts = 0
			return pipeline.SinkFunc[int](func(context.Context, []int) error { attempts++; return err })
		}
		three := func() backoff.BackOff { return backoff.WithMaxRetries(&backoff.ZeroBackOff{}, 2) }

		err := pipeline.Retry(failing(errBroken), pipeline.RetryPolicy{BackOff: three, Logger: quiet}).Write(ctx, nil)
		if !errors.Is(err, errBroken) || attempts != 3 {
			t.Errorf("after %d attempts: %v", attempts, err)
		}
		refused := &pipeline.RefusedError{Item: 0, Err: errBroken}
		if err := pipeline.Retry(failing(refused), pipeline.RetryPolicy{Logger: quiet}).Write(ctx, nil); err != refused || attempts != 1 {
			t.Errorf("refused, after %d attempts: %v", attempts, err)
		}
		permanent := fmt.Errorf("write: %w", backoff.Permanent(errBroken))
		if err := pipeline.Retry(failing(permanent), pipeline.RetryPolicy{Logger: quiet}).Write(ctx, nil); err != permanent || attempts != 1 {
			t.Errorf("permanent, after %d attempts: %v", attempts, err)
		}
		hopeless := func(err error) bool { return err == errBroken }
		if err := pipeline.Retry(failing(errBroken), pipeline.RetryPolicy{Permanent: hopeless, Logger: quiet}).Write(ctx, nil); err != errBroken || attempts != 1 {
			t.Errorf("permanent, after %d attempts: %v", attempts, err)
		}
		if err := pipeline.Retry(failing(errBroken), pipeline.RetryPolicy{Logger: quiet}).Write(ctx, nil); err == nil || err.Error() != "enough" {
			t.Errorf("cancelled, after %d attempts: %v", attempts, err)
		}
	})
}

// A sink that blocks is cancelled and its batch written again.
func TestTimeoutIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		sink := pipeline.SinkFunc[int](func(ctx context.Context, _ []int) error {
			if attempts++; attempts < 3 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		counted := pipeline.Count(pipeline.Timeout(sink, time.Second))
		s := pipeline.Retry(counted, pipeline.RetryPolicy{Logger: slog.New(slog.DiscardHandler)})
		if err := s.Write(t.Context(), []int{1}); err != nil || attempts != 3 {
			t.Errorf("after %d attempts: %v", attempts, err)
		}
		if st := counted.Stats(); st.Errors != 2 || st.Busy != 2*time.Second {
			t.Errorf("counted %+v", st)
		}
		stuck := pipeline.SinkFunc[int](func(ctx context.Context, _ []int) error { <-ctx.Done(); return ctx.Err() })
		if err := pipeline.Timeout(stuck, time.Second).Write(t.Context(), nil); !errors.Is(err, pipeline.ErrTimeout) {
			t.Errorf("timeout: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := pipeline.Timeout(stuck, time.Second).Write(ctx, nil); err != context.Canceled {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// Whether or not the sink can tell which items it refuses: the others are written, in order.
func TestSkipAndDeadLetter(t *testing.T) {
	bad := func(n int) bool { return n%5 == 3 }
	sinks := map[string]func([]int) error{
		"tells": func(batch []int) error {
			if i := slices.IndexFunc(batch, bad); i >= 0 {
				return fmt.Errorf("write: %w", &pipeline.RefusedError{Item: i, Err: errBroken})
			}
			return nil
		},
		"cannot tell": func(batch []int) error {
			if slices.ContainsFunc(batch, bad) {
				return &pipeline.RefusedError{Item: -1, Err: errBroken}
			}
			return nil
		},
	}
	for what, fail := range sinks {
		t.Run(what, func(t *testing.T) {
			var dead store[pipeline.Dead[int]]
			sink := store[int]{fail: fail}
			if err := pipeline.DeadLetter[int](&sink, &dead).Write(t.Context(), []int{0, 1, 2, 3, 4, 5, 8, 9}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(sink.items, []int{0, 1, 2, 4, 5, 9}) {
				t.Errorf("written: %v", sink.items)
			}
			if !slices.Equal(dead.items, []pipeline.Dead[int]{{3, errBroken}, {8, errBroken}}) {
				t.Errorf("dead: %v", dead.items)
			}
			dead.fail = func([]pipeline.Dead[int]) error { return context.DeadlineExceeded }
			if err := pipeline.DeadLetter[int](&sink, &dead).Write(t.Context(), []int{3}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("with a dead letter that cannot be written: %v", err)
			}
			sink.fail = func([]int) error { return errBroken }
			if err := pipeline.DeadLetter[int](&sink, &dead).Write(t.Context(), []int{1}); err != errBroken {
				t.Errorf("with a broken sink: %v", err)
			}
		})
	}
}

func TestSkipLogsNoData(t *testing.T) {
	sink := pipeline.SinkFunc[walchan.Message](func(context.Context, []walchan.Message) error {
		return &pipeline.RefusedError{Item: -1, Err: errBroken}
	})
	var log bytes.Buffer
	s := pipeline.Skip(sink, slog.New(slog.NewTextHandler(&log, nil)))
	if err := s.Write(t.Context(), walchantest.Messages(items.Insert(1, "secret"))); err != nil {
		t.Error(err)
	}
	if l := log.String(); !strings.Contains(l, "insert public.items") || strings.Contains(l, "secret") {
		t.Errorf("log: %s", l)
	}
}
