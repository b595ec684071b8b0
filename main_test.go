package walchan_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
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
	code := pgtest.Run(m, nil)
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
		label := fmt.Sprintf("{%q:%q}", "test", t.Name())
		if left := pgtest.Leaks(func(stack string) bool { return strings.Contains(stack, label) }); left != "" {
			t.Errorf("goroutines left behind:\n%s", left)
		}
	})
}
