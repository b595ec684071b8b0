// Command mutants breaks the code on purpose, in one small place after another, and runs the tests that must notice:
//
//	go run ./internal/mutants            all
//	go run ./internal/mutants keepalive  those whose name contains it, or one of several words
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

// mutant replaces old by new. old must stand in the code exactly once: that is how its place is found, wherever the code moves.
type mutant struct {
	name     string
	old, new string
	run      string // pattern of the tests that must notice, wherever they are
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
		if len(args) == 0 || slices.ContainsFunc(args, func(word string) bool { return strings.Contains(m.name, word) }) {
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
	code, err := readCode(dir)
	if err != nil {
		return err
	}
	survived := 0
	for i, m := range chosen {
		began := time.Now()
		caught, err := m.try(code)
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

// code is the Go code of a copy of the module.
type code struct {
	dir   string
	files map[string]string // by name, without tests
	tests [][2]string       // the tests: directory and name
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

func readCode(dir string) (*code, error) {
	c := &code{dir: dir, files: map[string]string{}}
	return c, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil || !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, filepath.Join("internal", "mutants")) {
			return err
		}
		b, err := os.ReadFile(path)
		if !strings.HasSuffix(name, "_test.go") {
			c.files[name] = string(b)
			return err
		}
		for _, f := range testFunc.FindAllSubmatch(b, -1) {
			c.tests = append(c.tests, [2]string{"./" + filepath.Dir(name), string(f[1])})
		}
		return err
	})
}

// find returns the file that has the place of m.
func (c *code) find(m mutant) (string, error) {
	var found []string
	for name, text := range c.files {
		for range strings.Count(text, m.old) {
			found = append(found, name)
		}
	}
	if slices.Sort(found); len(found) != 1 {
		return "", fmt.Errorf("its place stands %d times in the code: %s", len(found), strings.Join(found, ", "))
	}
	return found[0], nil
}

// packages returns those that have tests that match a pattern.
func (c *code) packages(pattern string) (dirs []string, err error) {
	first, _, _ := strings.Cut(pattern, "/")
	re, err := regexp.Compile(first)
	if err != nil {
		return nil, err
	}
	for _, test := range c.tests {
		if re.MatchString(test[1]) {
			dirs = append(dirs, test[0])
		}
	}
	if slices.Sort(dirs); len(dirs) == 0 {
		return nil, fmt.Errorf("no test matches %s", pattern)
	}
	return slices.Compact(dirs), nil
}

// try applies the mutant, and returns the tests that failed.
func (m mutant) try(c *code) ([]string, error) {
	name, err := c.find(m)
	if err != nil {
		return nil, err
	}
	dirs, err := c.packages(m.run)
	if err != nil {
		return nil, err
	}
	path, source := filepath.Join(c.dir, name), []byte(c.files[name])
	if err := os.WriteFile(path, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o644); err != nil {
		return nil, err
	}
	defer os.WriteFile(path, source, 0o644)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout=60s", "-run", m.run}, dirs...)...)
	cmd.Dir = c.dir
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
