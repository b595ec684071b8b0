package pgtest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestProgramsAreNamedByVariable(t *testing.T) {
	p, err := findPrograms()
	if err != nil {
		t.Fatal(err)
	}
	// As a package puts some of them into PATH.
	dir := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.Symlink(p.path(name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("WALCHAN_PGBIN", dir)
	if got, err := findPrograms(); err != nil || got != p {
		t.Errorf("WALCHAN_PGBIN: %v, %v", got, err)
	}
	t.Setenv("WALCHAN_PGBIN", "")
	t.Setenv("PATH", string(filepath.ListSeparator)+dir)
	if got, err := findPrograms(); err != nil || got != p {
		t.Errorf("PATH: %v, %v", got, err)
	}
}

func TestNoPrograms(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("WALCHAN_PGBIN", dir)
	_, err := New(t.Context())
	if !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "scripts/postgres") {
		t.Errorf("got %v", err)
	}
}

func TestNewestVersionFirst(t *testing.T) {
	dirs := []string{"/usr/lib/postgresql/9.6/bin", "/opt/homebrew/opt/postgresql@17/bin", "/usr/pgsql-15/bin"}
	slices.SortFunc(dirs, func(a, b string) int { return versionIn(b) - versionIn(a) })
	if got := strings.Join(dirs, " "); got != "/opt/homebrew/opt/postgresql@17/bin /usr/pgsql-15/bin /usr/lib/postgresql/9.6/bin" {
		t.Error(got)
	}
}
