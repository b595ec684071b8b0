// Command mutants breaks the code on purpose, in one small place after another, and runs the tests that must notice:
//
//	go run ./internal/mutants            all
//	go run ./internal/mutants keepalive  those whose name contains it
//
// Each mutant of the table is applied to a copy of the module. A mutant that no test catches, or whose place is no longer
// found, is an error: then a test or the table is to be mended.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// mutant replaces old by new, which must stand in the file exactly once.
type mutant struct {
	name     string
	file     string
	old, new string
	pkg      string // "" is the root package
	run      string // pattern of the tests that must notice
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var chosen []mutant
	for _, m := range mutants {
		if len(args) == 0 || strings.Contains(m.name, args[0]) {
			chosen = append(chosen, m)
		}
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyModule(dir); err != nil {
		return err
	}
	survived := 0
	for i, m := range chosen {
		began := time.Now()
		caught, err := m.try(dir)
		what := "caught by " + strings.Join(caught, ", ")
		if err != nil {
			survived++
			what = "NOT CAUGHT: " + err.Error()
		}
		fmt.Printf("%3d/%d  %-55s %s (%.0fs)\n", i+1, len(chosen), m.name, what, time.Since(began).Seconds())
	}
	if survived > 0 {
		return fmt.Errorf("%d of %d mutants were not caught", survived, len(chosen))
	}
	fmt.Printf("all %d mutants were caught\n", len(chosen))
	return nil
}

// copyModule copies what git would commit.
func copyModule(to string) error {
	out, err := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	for _, name := range strings.Fields(string(out)) {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// try applies the mutant, and returns the tests that failed.
func (m mutant) try(dir string) ([]string, error) {
	path := filepath.Join(dir, m.file)
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return nil, fmt.Errorf("its place stands %d times in %s", n, m.file)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o644); err != nil {
		return nil, err
	}
	defer os.WriteFile(path, source, 0o644)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=60s", "-run", m.run, "./"+m.pkg)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil, errors.New("the tests pass")
	}
	var caught []string
	for _, f := range failed.FindAllSubmatch(out, -1) {
		caught = append(caught, string(f[1]))
	}
	switch {
	case len(caught) > 0:
		slices.Sort(caught)
		return caught[:1], nil
	case strings.Contains(string(out), "panic: test timed out"), strings.Contains(string(out), "panic: deadlock"):
		return []string{m.run + " (it hangs)"}, nil
	case strings.Contains(string(out), "panic: "):
		return []string{m.run + " (panic)"}, nil
	}
	return nil, fmt.Errorf("it does not compile, or the tests do not run:\n%s", out)
}
