package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// FileLimit says when the next file is begun: when the first of these is reached. It is looked at before a batch is written,
// which goes into one file.
type FileLimit struct {
	Bytes int64         // default 64 MiB
	Age   time.Duration // since the file was begun, or opened by this process; 0: no limit
}

// Files is a Sink that writes lines into files, numbered one after the other: a file is complete when there is the next.
type Files[T any] struct {
	path   string // without number and extension
	ext    string
	limit  FileLimit
	encode Encoder[T]

	number int
	file   *os.File
	begun  time.Time
	size   int64 // that is durable
	torn   bool  // there may be more, of a write that failed
	buf    []byte
}

// OpenFiles opens a Sink that writes into path with a number before its extension: changes-000001.jsonl for changes.jsonl. It
// goes on with the last one that is there, from which it cuts what a crash may have left of a line. A batch is in its file,
// as a whole, and synced, when Write returns; after an error nothing of it is.
func OpenFiles[T any](path string, encode Encoder[T], limit FileLimit) (*Files[T], error) {
	if limit.Bytes <= 0 {
		limit.Bytes = 64 << 20
	}
	ext := filepath.Ext(path)
	f := &Files[T]{path: strings.TrimSuffix(path, ext) + "-", ext: ext, limit: limit, encode: encode, number: 1}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("look for files: %w", err)
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(f.path))
		digits, isOurs := strings.CutSuffix(digits, ext)
		if n, err := strconv.Atoi(digits); ok && isOurs && err == nil && n > f.number {
			f.number = n
		}
	}
	if err := f.open(); err != nil {
		return nil, err
	}
	if f.size, err = wholeLines(f.file); err != nil {
		f.file.Close()
		return nil, fmt.Errorf("look for the last line: %w", err)
	}
	f.torn = true
	return f, nil
}

// open opens the file with the current number.
func (f *Files[T]) open() (err error) {
	name := fmt.Sprintf("%s%06d%s", f.path, f.number, f.ext)
	if f.file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return fmt.Errorf("open a file: %w", err)
	}
	f.begun, f.size = time.Now(), 0
	if err := syncDir(filepath.Dir(name)); err != nil {
		f.file.Close()
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

// Write writes a line for each item of the batch.
func (f *Files[T]) Write(_ context.Context, batch []T) (err error) {
	if f.buf, err = appendLines(f.buf[:0], f.encode, batch); err != nil {
		return err
	}
	if len(f.buf) == 0 {
		return nil
	}
	if f.size > 0 && (f.size >= f.limit.Bytes || f.limit.Age > 0 && time.Since(f.begun) >= f.limit.Age) {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	if err := f.cut(); err != nil {
		return err
	}
	f.torn = true
	if _, err := f.file.WriteAt(f.buf, f.size); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	f.size, f.torn = f.size+int64(len(f.buf)), false
	return nil
}

// cut removes what a write that failed has left.
func (f *Files[T]) cut() error {
	if f.torn {
		if err := f.file.Truncate(f.size); err != nil {
			return fmt.Errorf("cut off what was not written as a whole: %w", err)
		}
	}
	f.torn = false
	return nil
}

// rotate begins the next file. If that fails the current one is still there to be written to.
func (f *Files[T]) rotate() error {
	if err := f.cut(); err != nil {
		return err
	}
	next := *f
	next.number++
	if err := next.open(); err != nil {
		return err
	}
	f.file.Close() // all of it is synced
	*f = next
	return nil
}

// Close closes the file.
func (f *Files[T]) Close() error { return f.file.Close() }

// wholeLines returns where the last line break of a file ends.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for end := info.Size(); end > 0; {
		start := max(0, end-int64(len(buf)))
		b := buf[:end-start]
		if _, err := f.ReadAt(b, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// syncDir makes the name of a new file durable. Windows has no such thing.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
