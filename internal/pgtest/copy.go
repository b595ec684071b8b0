package pgtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// A Copy is a copy of a data directory, as a snapshot of the volume is. It lives as long as the cluster that it was made of.
type Copy struct {
	options options
	dir     string
}

// Part says which files of a copy are put back.
type Part int

// The parts of a data directory.
const (
	Everything Part = iota
	AllButSlots
	OnlySlots
)

const slotsDir = "pg_replslot"

var copies atomic.Int32

// Copy copies the data directory of a stopped cluster: as a shutdown left it, or after Stop(Immediate) and Kill as a crash did.
func (c *Cluster) Copy(t testing.TB) *Copy {
	t.Helper()
	p := &Copy{options: c.options, dir: filepath.Join(c.dir, fmt.Sprintf("copy-%d", copies.Add(1)))}
	if c.server.running() {
		t.Fatal("pgtest: copy: the server is running")
	}
	if err := copyData(c.DataDir(), p.dir, func(string, fs.DirEntry) bool { return false }); err != nil {
		t.Fatalf("pgtest: copy: %v", err)
	}
	return p
}

// PutBack replaces a part of a stopped cluster's data directory by that of a copy, which may be one of another cluster.
func (c *Cluster) PutBack(t testing.TB, p *Copy, part Part) {
	t.Helper()
	if c.server.running() {
		t.Fatal("pgtest: put back: the server is running")
	}
	err := c.remove(part)
	if err == nil {
		err = copyData(p.dir, c.DataDir(), func(rel string, _ fs.DirEntry) bool { return !part.has(rel) })
	}
	if err == nil {
		err = c.configure() // the copy may have another port
	}
	if err != nil {
		t.Fatalf("pgtest: put back: %v", err)
	}
}

// remove removes a part of the data directory. The pid file of a killed server stays, because the next one finds the shared
// memory there that it must remove.
func (c *Cluster) remove(part Part) error {
	entries, err := os.ReadDir(c.DataDir())
	for _, e := range entries {
		if name := e.Name(); part.has(name) && name != "postmaster.pid" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.DataDir(), name)))
		}
	}
	return err
}

// has says whether a path in the data directory belongs to the part. What holds the whole directory belongs to every part.
func (p Part) has(rel string) bool {
	isSlot := rel == slotsDir || filepath.Dir(rel) == slotsDir || filepath.Dir(filepath.Dir(rel)) == slotsDir
	switch p {
	case AllButSlots:
		return !isSlot
	case OnlySlots:
		return isSlot || rel == "."
	}
	return true
}

// Twin starts another cluster from the copy: one with the same system identifier, timeline, slots and settings.
func (p *Copy) Twin(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	return p.start(t, opts, func(*Cluster) error { return nil })
}

// Standby starts a standby of a running primary from the copy. It differs from [Cluster.Standby] in having the slots of the
// copy, as if another program had copied their files.
func (p *Copy) Standby(t testing.TB, primary *Cluster, opts ...Option) *Cluster {
	t.Helper()
	return p.start(t, opts, func(s *Cluster) error {
		slot := newStandbySlot()
		err := execSQL(t.Context(), primary.SocketDSN(), "SELECT pg_create_physical_replication_slot('"+slot+"', true)")
		return errors.Join(err, s.follow(primary, slot))
	})
}

// Recover starts a cluster from the copy that replays the WAL of another cluster, which need not be running, and ends on a new
// timeline. An option says how far: WithSetting("recovery_target_lsn", …) or another target.
func (p *Copy) Recover(t testing.TB, archive *Cluster, opts ...Option) *Cluster {
	t.Helper()
	opts = append(opts,
		WithSetting("restore_command", `cp "`+filepath.Join(archive.DataDir(), "pg_wal")+`/%f" "%p"`),
		WithSetting("recovery_target_action", "promote"))
	c := p.start(t, opts, func(c *Cluster) error { return c.writeData("recovery.signal") })
	Wait(t, c.SocketDSN(), "SELECT NOT pg_is_in_recovery()")
	return c
}

// start starts a cluster from the copy, which prepare may change before.
func (p *Copy) start(t testing.TB, opts []Option, prepare func(*Cluster) error) *Cluster {
	t.Helper()
	c, err := build(p.options.with(opts), func(c *Cluster) error {
		err := copyData(p.dir, c.DataDir(), func(string, fs.DirEntry) bool { return false })
		if err == nil {
			err = prepare(c)
		}
		return err
	})
	if err == nil {
		if err = c.startOnFreePort(t.Context()); err != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return c.owned(t, err)
}

// copyData copies a data directory without what belongs to a running server, and without what omit says. Files may go away
// meanwhile.
func copyData(from, to string, omit func(rel string, d fs.DirEntry) bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path)
		switch {
		case errors.Is(err, fs.ErrNotExist), rel == "postmaster.pid", rel == "postmaster.opts":
			return nil
		case err != nil:
			return err
		case omit(rel, d) && d.IsDir():
			return fs.SkipDir
		case omit(rel, d):
			return nil
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			err = os.MkdirAll(target, 0o700)
		} else {
			var data []byte
			if data, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			err = errors.Join(err, os.WriteFile(target, data, 0o600))
		}
		return errors.Join(err, giveToServer(target))
	})
}
