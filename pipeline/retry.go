package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan"
)

// RetryPolicy says how Retry repeats. The zero value is for production.
type RetryPolicy struct {
	// BackOff returns the delays for one batch, until it is written. When they stop, the error is final. nil: 100 ms, doubling up
	// to 30 s, for ever.
	BackOff func() backoff.BackOff

	// Permanent says of an error that it is not worth a repetition, besides *RefusedError and backoff's PermanentError. nil: none
	// is.
	Permanent func(error) bool

	Logger *slog.Logger // told when a sink begins to fail, and when it works again; nil: slog.Default()
}

// Retry writes each batch until s takes it, or refuses it (*RefusedError), or ctx ends, or an error is permanent. Meanwhile the pipeline waits, and
// with it the stream, and the server keeps its WAL. Count around s, within Retry, counts the failures. Checkpoint of a Checkpointer
// is tried again, too.
func Retry[T any](s Sink[T], p RetryPolicy) Sink[T] {
	if p.BackOff == nil {
		p.BackOff = func() backoff.BackOff {
			return backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMultiplier(2),
				backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0))
		}
	}
	if p.Permanent == nil {
		p.Permanent = func(error) bool { return false }
	}
	if p.Logger == nil {
		p.Logger = slog.Default()
	}
	return put(s, func(ctx context.Context, batch []T, c walchan.Checkpoint, write writing[T]) error {
		return p.write(ctx, func() error { return write(ctx, batch, c) })
	})
}

func (p *RetryPolicy) write(ctx context.Context, once func() error) error {
	var delays backoff.BackOff
	for began, attempt := time.Now(), 1; ; attempt++ {
		err := once()
		var refused *RefusedError
		var permanent *backoff.PermanentError
		switch {
		case err == nil && attempt > 1:
			p.Logger.Info("the sink works again", "after", time.Since(began).Round(time.Millisecond), "attempts", attempt)
			return nil
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &refused) || errors.As(err, &permanent) || p.Permanent(err):
			return err
		}
		if attempt == 1 {
			delays = p.BackOff()
		}
		delay := delays.NextBackOff()
		if delay == backoff.Stop {
			return fmt.Errorf("write, %d times: %w", attempt, err)
		}
		if attempt == 1 {
			p.Logger.Warn("the sink fails: its batch is tried again", "error", err, "delay", delay)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// ErrTimeout is in the error of Timeout.
var ErrTimeout = errors.New("pipeline: the sink took too long")

// Timeout cancels a write of s that takes longer than d, which is then an error for Retry. It waits until s returns.
func Timeout[T any](s Sink[T], d time.Duration) Sink[T] {
	return put(s, func(ctx context.Context, batch []T, c walchan.Checkpoint, write writing[T]) error {
		ctx, cancel := context.WithTimeoutCause(ctx, d, ErrTimeout)
		defer cancel()
		err := write(ctx, batch, c)
		if err != nil && context.Cause(ctx) == ErrTimeout {
			return fmt.Errorf("%w: more than %v", ErrTimeout, d)
		}
		return err
	})
}
