package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPostgres says that PostgreSQL's server programs are not on this machine, or not where they are looked for: the
// directory in WALCHAN_PGBIN and nowhere else, if that is set; otherwise PATH, pg_config --bindir and the directories of Debian's, Red
// Hat's and Homebrew's packages, of which the newest version is taken.
var ErrNoPostgres = errors.New("no PostgreSQL server programs (initdb, postgres) found: run scripts/postgres, install " +
	"PostgreSQL's server package (Debian: postgresql, Fedora: postgresql-server, Homebrew: postgresql@17), or name the " +
	"directory that holds them in WALCHAN_PGBIN")

// programs is a directory with PostgreSQL's programs.
type programs struct {
	dir     string
	version int    // major
	release string // what postgres --version says
}

func (p programs) path(name string) string { return filepath.Join(p.dir, name) }

func findPrograms() (programs, error) {
	if dir := os.Getenv("WALCHAN_PGBIN"); dir != "" {
		if !hasServer(dir) {
			return programs{}, fmt.Errorf("WALCHAN_PGBIN=%s: %w", dir, ErrNoPostgres)
		}
		return newPrograms(dir)
	}
	for _, dir := range binDirs() {
		if dir != "" && hasServer(dir) { // PATH may have empty elements
			return newPrograms(dir)
		}
	}
	return programs{}, ErrNoPostgres
}

// binDirs lists where the programs may be, best first. scripts/postgres does the same.
func binDirs() []string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
	} {
		found, _ := filepath.Glob(pattern) // fails on a bad pattern only
		slices.SortFunc(found, func(a, b string) int { return versionIn(b) - versionIn(a) })
		dirs = append(dirs, found...)
	}
	return dirs
}

var number = regexp.MustCompile(`[0-9]+`)

// versionIn returns the number in a path such as /usr/lib/postgresql/15/bin.
func versionIn(path string) int {
	n, _ := strconv.Atoi(number.FindString(path))
	return n
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func newPrograms(dir string) (programs, error) {
	// What lies in PATH may be links to some of the programs: all of them are where the links lead.
	postgres, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return programs{}, err
	}
	if dir, err = filepath.Abs(filepath.Dir(postgres)); err != nil {
		return programs{}, err
	}
	out, err := exec.Command(postgres, "--version").Output()
	if err != nil {
		return programs{}, fmt.Errorf("%s --version: %w", postgres, err)
	}
	// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1), postgres (PostgreSQL) 19beta1
	_, version, _ := strings.Cut(string(out), "(PostgreSQL) ")
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	major, err := strconv.Atoi(version[:max(digits, 0)])
	if err != nil {
		return programs{}, fmt.Errorf("%s --version says %q", postgres, out)
	}
	return programs{dir, major, string(out)}, nil
}
