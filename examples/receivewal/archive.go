package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
)

// An archive is a directory of segment files.
type archive struct {
	dir  string
	size walchan.LSN // of a segment

	start    walchan.LSN // where it ends when it is opened: the beginning of a segment; 0: it is empty
	timeline uint32      // of the WAL there

	file  *os.File // the segment that is being written; nil: none
	name  string   // without .partial
	dirty bool     // file has what is not synced

	resumed bool // file was there
}

const partial = ".partial"

// segmentSize asks the server.
func segmentSize(ctx context.Context, conn *admin.Conn) (walchan.LSN, error) {
	s, err := conn.Show(ctx, "wal_segment_size")
	if err != nil {
		return 0, err
	}
	var n uint64
	var unit string
	if _, err := fmt.Sscanf(s, "%d%s", &n, &unit); err != nil {
		return 0, fmt.Errorf("wal_segment_size %q: %w", s, err)
	}
	return walchan.LSN(n * map[string]uint64{"MB": 1 << 20, "GB": 1 << 30}[unit]), nil
}

// openArchive finds where to go on: behind the last segment if it is whole, else at its beginning. The same segment may be
// there of two timelines: then the later one counts.
func openArchive(dir string, size walchan.LSN) (*archive, error) {
	a := &archive{dir: dir, size: size}
	entries, err := os.ReadDir(dir) // by name: by timeline, and .partial behind the whole segment
	if err != nil {
		return nil, err
	}
	var last walchan.LSN
	for _, e := range entries {
		timeline, begin, whole, ok := a.parseName(e.Name())
		if !ok {
			continue
		}
		if whole {
			info, err := e.Info()
			if err != nil {
				return nil, err
			}
			if info.Size() != int64(size) {
				return nil, fmt.Errorf("%s has %d bytes instead of %d: it is no whole segment; remove it", e.Name(), info.Size(), size)
			}
		}
		if a.start != 0 && (begin < last || begin == last && timeline == a.timeline) {
			continue
		}
		last, a.timeline, a.start = begin, timeline, begin
		if whole {
			a.start += size
		}
	}
	return a, nil
}

// segmentName is XLogFileName in src/include/access/xlog_internal.h.
func (a *archive) segmentName(timeline uint32, lsn walchan.LSN) string {
	n, perID := uint64(lsn/a.size), uint64(1<<32/a.size)
	return fmt.Sprintf("%08X%08X%08X", timeline, n/perID, n%perID)
}

// parseName is the reverse of segmentName. ok is false for all other files.
func (a *archive) parseName(file string) (timeline uint32, begin walchan.LSN, whole, ok bool) {
	name := file[:min(24, len(file))]
	suffix := file[len(name):]
	var part [3]uint64
	for i := range part {
		var err error
		if len(name) != 24 {
			return 0, 0, false, false
		}
		if part[i], err = strconv.ParseUint(name[8*i:8*i+8], 16, 32); err != nil {
			return 0, 0, false, false
		}
	}
	begin = walchan.LSN(part[1]<<32) + walchan.LSN(part[2])*a.size
	timeline = uint32(part[0])
	return timeline, begin, suffix == "", a.segmentName(timeline, begin) == name && (suffix == "" || suffix == partial)
}

// add writes a message. due says that it has ended a segment or is a history file: a good time to sync and acknowledge.
func (a *archive) add(msg walchan.Message) (due bool, err error) {
	if msg.Kind == walchan.TimelineHistory {
		return true, a.addHistory(msg.Timeline(), msg.Payload())
	}
	wal, at := msg.Payload(), msg.LSN
	for wal != "" {
		if err := a.open(a.segmentName(msg.Timeline(), at)); err != nil {
			return false, err
		}
		offset := at % a.size
		n := min(len(wal), int(a.size-offset))
		if err := a.compare(wal[:n], at); err != nil {
			return false, err
		}
		if _, err := a.file.WriteAt([]byte(wal[:n]), int64(offset)); err != nil {
			return false, err
		}
		a.dirty = true
		wal, at = wal[n:], at+walchan.LSN(n)
		if at%a.size == 0 {
			if err := a.finish(); err != nil {
				return false, err
			}
			due = true
		}
	}
	return due, nil
}

// compare fails if the file has other WAL at a position, from a process before. Then the server has another history than
// the archive: another standby was promoted, or a volume was restored. What a crash has kept from the disk is zero.
func (a *archive) compare(wal string, at walchan.LSN) error {
	if !a.resumed {
		return nil
	}
	before := make([]byte, len(wal))
	if _, err := a.file.ReadAt(before, int64(at%a.size)); err != nil {
		return err
	}
	for i, b := range before {
		if b != 0 && b != wal[i] {
			return &walchan.Error{Kind: walchan.ErrDiverged, What: fmt.Sprintf("%s has other WAL at %s than the server", a.name+partial, at+walchan.LSN(i)),
				Advice: "connect to the server of this archive, or begin another archive"}
		}
	}
	return nil
}

// open makes name the segment that is being written. What is not yet received of it is zero.
func (a *archive) open(name string) error {
	if a.name == name {
		return nil
	}
	if err := a.close(); err != nil { // the timeline has ended in the middle of it: it stays partial
		return err
	}
	var err error
	if a.file, err = os.OpenFile(filepath.Join(a.dir, name+partial), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	a.name, a.dirty, a.resumed = name, true, info.Size() > 0
	if err := a.file.Truncate(int64(a.size)); err != nil {
		return err
	}
	return syncDir(a.dir)
}

// sync returns when everything that was added is safe.
func (a *archive) sync() error {
	if !a.dirty {
		return nil
	}
	if err := a.file.Sync(); err != nil {
		return err // for good: what fsync has failed for once may be gone, and the next one may not tell
	}
	a.dirty = false
	return nil
}

// finish gives the segment its name: it is whole.
func (a *archive) finish() error {
	name := filepath.Join(a.dir, a.name)
	if err := a.close(); err != nil {
		return err
	}
	if err := os.Rename(name+partial, name); err != nil {
		return err
	}
	return syncDir(a.dir)
}

func (a *archive) close() error {
	if a.file == nil {
		return nil
	}
	err := a.sync()
	err = errors.Join(err, a.file.Close())
	a.file, a.name, a.dirty = nil, "", false
	return err
}

// addHistory writes the history file of a timeline, unless it is there.
func (a *archive) addHistory(timeline uint32, content string) error {
	name := filepath.Join(a.dir, fmt.Sprintf("%08X.history", timeline))
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	return syncDir(a.dir)
}

// syncDir makes the names of files safe that were made or renamed.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
