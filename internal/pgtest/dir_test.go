package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Directories that will not do: the path of a socket in the one is too long, the other is closed to the server's user
// (unless that is ourselves).
func uselessDirs(t *testing.T) []string {
	dirs := []string{filepath.Join(t.TempDir(), strings.Repeat("x", 80))}
	if os.Geteuid() == 0 {
		dirs = append(dirs, filepath.Join(t.TempDir(), "closed"))
	}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

func TestTMPDIR(t *testing.T) {
	for _, dir := range uselessDirs(t) {
		t.Setenv("TMPDIR", dir)
		if c := Start(t); !strings.HasPrefix(c.dir, "/tmp/") {
			t.Errorf("the cluster is in %s", c.dir)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

func TestWithDir(t *testing.T) {
	t.Parallel()
	if c := Start(t, WithDir("/var/tmp")); !strings.HasPrefix(c.dir, "/var/tmp/") {
		t.Errorf("the cluster is in %s", c.dir)
	}
	for _, dir := range uselessDirs(t) {
		if c, err := New(t.Context(), WithDir(dir)); err == nil {
			c.Close()
			t.Errorf("the cluster is in %s", c.dir)
		}
	}
}
