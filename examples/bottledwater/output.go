package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// output is a file, or the standard output.
//
// While the rows of a snapshot are written, the file is called FILE.partial: until all of them are there the slot does not exist,
// and the next start begins anew. It gets its name when the slot exists, by this process or the next. So a FILE without a slot is
// never of a snapshot that was torn off; it is somebody's, and left alone.
type output struct {
	file    *os.File
	path    string // "" is the standard output
	partial bool
}

const partialSuffix = ".partial"

// openOutput opens the output. What a crash has torn at its end is cut off.
func openOutput(f flags, slotExists bool) (*output, error) {
	o := &output{file: os.Stdout, path: f.out}
	if f.out == "" {
		return o, nil
	}
	if err := o.open(slotExists, f.snapshot); err != nil {
		return nil, err
	}
	if o.partial {
		return o, nil // the snapshot begins anew
	}
	if err := o.repair(f.format); err != nil {
		return nil, errors.Join(fmt.Errorf("go on in %s: %w", o.path, err), o.close())
	}
	return o, nil
}

func (o *output) open(slotExists, snapshot bool) (err error) {
	o.partial = snapshot && !slotExists
	name := o.path
	switch {
	case o.partial && hasContent(o.path):
		return fmt.Errorf("%s has something in it, though the slot of which it could be does not exist: move it away, or choose another", o.path)
	case o.partial:
		name += partialSuffix
	case slotExists && !hasContent(o.path) && hasContent(o.path+partialSuffix):
		o.partial = true // the last process ended just before it could rename the file
		if err := o.settle(); err != nil {
			return err
		}
	}
	if o.file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	if err := lock(o.file); err != nil {
		return errors.Join(fmt.Errorf("another process writes to %s: %w", name, err), o.file.Close())
	}
	return syncDir(o.path)
}

func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// settle gives the file its name.
func (o *output) settle() error {
	if !o.partial {
		return nil
	}
	if err := os.Rename(o.path+partialSuffix, o.path); err != nil {
		return err
	}
	o.partial = false
	return syncDir(o.path)
}

// syncDir makes a file's name durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return syncIfPossible(dir)
}

// write writes, and returns when it is on the disk.
func (o *output) write(b []byte) error {
	if _, err := o.file.Write(b); err != nil {
		return err
	}
	if o.path == "" {
		return nil
	}
	return o.file.Sync()
}

// restart empties the file; of the standard output it cannot: then it returns false.
func (o *output) restart() (bool, error) {
	if !o.partial {
		return false, nil
	}
	if err := o.file.Truncate(0); err != nil {
		return false, err
	}
	_, err := o.file.Seek(0, io.SeekStart)
	return true, err
}

func (o *output) close() error {
	if o.path == "" {
		return nil
	}
	return o.file.Close()
}

// repair cuts the file behind its last line or block, and goes there. A file of anything else is left alone.
func (o *output) repair(format string) error {
	end, separator := int64(0), []byte("\n")
	if format == "avro" {
		var err error
		if end, separator, err = containerHeader(o.file); err != nil {
			return err
		}
	} else if err := beginsWithJSON(o.file); err != nil {
		return err
	}
	size, err := o.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if separator != nil {
		if end, err = lastEnd(o.file, size, end, separator); err != nil {
			return err
		}
	}
	if end < size {
		note("%s: the last %d bytes were torn, and are cut off", o.path, size-end)
		if err := o.file.Truncate(end); err != nil {
			return err
		}
	}
	_, err = o.file.Seek(end, io.SeekStart)
	return err
}

func beginsWithJSON(f *os.File) error {
	first := []byte("{")
	if _, err := f.ReadAt(first, 0); err != nil && err != io.EOF {
		return err
	}
	if first[0] != '{' {
		return errors.New("it has something else than lines of JSON in it: choose another file, or the -format that it has")
	}
	return nil
}

// lastEnd returns where the last separator ends, or first if there is none behind that.
func lastEnd(r io.ReaderAt, size, first int64, separator []byte) (int64, error) {
	const step = 64 << 10
	buf := make([]byte, step+len(separator)-1) // a separator may lie across two steps
	for end := size; end > first; end -= step {
		begin := max(first, end-int64(len(buf)))
		part := buf[:end-begin]
		if _, err := r.ReadAt(part, begin); err != nil {
			return 0, err
		}
		if i := bytes.LastIndex(part, separator); i >= 0 {
			return begin + int64(i+len(separator)), nil
		}
		if begin == first {
			break
		}
	}
	return first, nil
}
