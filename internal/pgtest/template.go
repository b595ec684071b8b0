package pgtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var initdbArgs = []string{"-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}

// initdb makes the data directory. The program takes most of a second, a copy of what it made the last time a tenth of that:
// one is kept in the user's cache directory for each version of PostgreSQL.
func (c *Cluster) initdb(ctx context.Context) error {
	template := c.template()
	if _, err := os.Stat(template); err != nil {
		args := append([]string{"-D", c.DataDir()}, initdbArgs...)
		if err := c.run(ctx, "initdb", args...); err != nil {
			return err
		}
		keepTemplate(c.DataDir(), template)
		return nil
	}
	err := os.Mkdir(c.DataDir(), 0o700) // the server insists on 0700
	if err == nil {
		err = os.CopyFS(c.DataDir(), os.DirFS(template))
	}
	if err == nil {
		err = newIdentity(c.DataDir())
	}
	if err == nil {
		err = filepath.WalkDir(c.DataDir(), func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, giveToServer(path))
		})
	}
	if err != nil {
		return fmt.Errorf("pgtest: copy %s (remove it if it is damaged): %w", template, err)
	}
	return nil
}

// template is where the copy is kept, or "" without a cache directory.
func (c *Cluster) template() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	key := sha256.Sum256([]byte(c.programs.dir + c.programs.release + strings.Join(initdbArgs, " ")))
	return filepath.Join(cache, "walchan-pgtest", fmt.Sprintf("%d-%x", c.programs.version, key[:6]))
}

// keepTemplate copies data to template, which comes to exist complete or not at all, whoever else does the same at the
// same time. A cache that cannot be written costs time only.
func keepTemplate(data, template string) {
	if template == "" || os.MkdirAll(filepath.Dir(template), 0o755) != nil {
		return
	}
	tmp, err := os.MkdirTemp(filepath.Dir(template), "new-")
	if err != nil {
		return
	}
	defer os.RemoveAll(tmp)
	if os.CopyFS(tmp, os.DirFS(data)) == nil {
		_ = os.Rename(tmp, template) // fails if another process was first
	}
}

// newIdentity gives a copied data directory a system identifier of its own, as every cluster has by which clients tell
// them apart. It is the first field of pg_control, whose last one is a checksum of those before it (ControlFileData in
// src/include/catalog/pg_control.h), and stands in the first page of the WAL segment (XLogLongPageHeaderData in
// src/include/access/xlog_internal.h).
func newIdentity(data string) error {
	id := binary.NativeEndian.AppendUint64(nil, uint64(time.Now().Unix())<<32|uint64(rand.Uint32()))
	path := filepath.Join(data, "global", "pg_control")
	control, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	end := 8 // where the checksum is depends on the version
	for end+4 <= len(control) && crc32.Checksum(control[:end], castagnoli) != binary.NativeEndian.Uint32(control[end:]) {
		end += 4
	}
	if end+4 > len(control) {
		return fmt.Errorf("%s: no checksum", path)
	}
	segments, _ := filepath.Glob(filepath.Join(data, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if len(segments) != 1 {
		return fmt.Errorf("%d WAL segments, not one", len(segments))
	}
	wal, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer wal.Close()
	const inWAL = 24
	old := make([]byte, len(id))
	if _, err := wal.ReadAt(old, inWAL); err != nil {
		return err
	}
	if !bytes.Equal(old, control[:8]) {
		return fmt.Errorf("%s: not the system identifier of pg_control", segments[0])
	}
	if _, err := wal.WriteAt(id, inWAL); err != nil {
		return err
	}
	copy(control, id)
	binary.NativeEndian.PutUint32(control[end:], crc32.Checksum(control[:end], castagnoli))
	return os.WriteFile(path, control, 0o600)
}
