package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Connect makes a connection that lasts until the test ends.
func Connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Seeded returns random numbers whose seed is logged. The variable SEED gives another one.
func Seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Run runs the tests of a package and returns the status to exit with. It is 1, too, if a goroutine is left behind: see [Leaks].
func Run(m *testing.M, counts func(stack string) bool) int {
	code := m.Run()
	if left := Leaks(counts); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind by some test:\n%s\n", left)
		return 1
	}
	return code
}

// Leaks returns the stacks of the goroutines that are left behind. They have a while to end. Those of the tests and of clusters do not count;
// of the others only those for which counts is true, or all if it is nil.
func Leaks(counts func(stack string) bool) (left string) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if left = strings.Join(goroutines(counts), "\n\n"); left == "" {
			break
		}
	}
	return left
}

func goroutines(counts func(stack string) bool) (all []string) {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	_, stacks, _ := strings.Cut(b.String(), "\n")
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		switch {
		case strings.TrimSpace(stack) == "":
		case strings.Contains(stack, "runtime/pprof.(*Profile).WriteTo"): // this one
		case strings.Contains(stack, "internal/pgtest."): // one for each cluster
		case strings.Contains(stack, "os/signal."):
		case counts != nil && !counts(stack):
		default:
			all = append(all, stack)
		}
	}
	return all
}
