package main

import (
	"errors"
	"fmt"
)

// A finding is an error that says something of walchan: a stream that ended, a consumer that is stuck. Any other error says only
// that chaos could not do its own work.
type finding struct{ error }

func (f finding) Unwrap() error { return f.error }

func found(format string, args ...any) error { return finding{fmt.Errorf(format, args...)} }

// toolFailure is an error of chaos itself, which may be the cause of all others.
type toolFailure struct{ error }

func isFinding(err error) bool {
	var f finding
	var t toolFailure
	return errors.As(err, &f) && !errors.As(err, &t)
}

// The exit statuses. A panic has the second one, too.
const (
	statusFinding = 1
	statusTools   = 2
)
