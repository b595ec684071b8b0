package walchan_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
)

// The tests of the contract: the package comment of walchan, sentence by sentence, on real servers. A test is named after
// what it proves.

func TestMain(m *testing.M) {
	if os.Getenv(crashConsumer) != "" {
		consumeUntilKilled()
	}
	if os.Getenv(storingConsumer) != "" {
		storeUntilKilled()
	}
	if os.Getenv(snapshotConsumer) != "" {
		consumeSnapshotUntilKilled()
	}
	flag.Parse()
	beMoreParallel()
	code := m.Run()
	if left := lasting(func() string { return goroutines("") }); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind by some test:\n%s\n", left)
		code = 1
	}
	if wrong := walchan.TransitionsBesideTheTable(); wrong != nil {
		fmt.Fprintln(os.Stderr, "changes of state that are not in the table (states.go):", strings.Join(wrong, "; "))
		code = 1
	}
	if isWhole() {
		if missing := walchan.TransitionsNotSeen(); missing != nil {
			fmt.Fprintln(os.Stderr, "changes of state in the table (states.go) that no test makes:", strings.Join(missing, "; "))
			code = 1
		}
	}
	os.Exit(code)
}

// isWhole says whether all tests were asked for.
func isWhole() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if flag.Lookup(name).Value.String() != "" {
			return false
		}
	}
	return !testing.Short()
}

// beMoreParallel: most tests wait for a server, not for a processor.
func beMoreParallel() {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "8")
	}
}

// noLeaks has the test fail if a goroutine that it has started, or that was started by one of these, outlives it. They are
// known by a profiler label, which goroutines inherit, so that tests may run in parallel.
func noLeaks(t *testing.T) {
	t.Helper()
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("test", t.Name())))
	t.Cleanup(func() {
		if left := lasting(func() string { return goroutines(t.Name()) }); left != "" {
			t.Errorf("goroutines left behind:\n%s", left)
		}
	})
}

// goroutines returns the stacks of the goroutines with the label of a test ("": of all), apart from those that belong to
// the tests.
func goroutines(test string) string {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	_, stacks, _ := strings.Cut(b.String(), "\n")
	var left []string
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		switch {
		case strings.TrimSpace(stack) == "":
		case strings.Contains(stack, "runtime/pprof.(*Profile).WriteTo"): // this one
		case strings.Contains(stack, "internal/pgtest."): // one for each cluster
		case strings.Contains(stack, "os/signal."):
		case test != "" && !strings.Contains(stack, fmt.Sprintf("{%q:%q}", "test", test)):
		default:
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
