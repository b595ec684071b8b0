package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/walchan/walchan"
)

// A journal is the file of what a consumer has received: a line each, "position<TAB>content", in the order in which it was
// received. Each life of the consumer begins with an empty line.
type journal struct {
	file *os.File
	buf  bytes.Buffer
}

// openJournal begins another life. A line that a killed process has not written to its end was not acknowledged either,
// and is removed.
func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	end, err := completeLines(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.WriteAt([]byte("\n"), end)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekEnd)
	}
	return &journal{file: f}, err
}

// completeLines returns where the last line that is complete ends.
func completeLines(f *os.File) (int64, error) {
	const tail = 1 << 20 // longer than a line
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	start := max(size-tail, 0)
	b := make([]byte, size-start)
	if _, err := f.ReadAt(b, start); err != nil && err != io.EOF {
		return 0, err
	}
	return start + int64(bytes.LastIndexByte(b, '\n')+1), nil
}

// add notes a message, for the next flush.
func (j *journal) add(s seen) {
	j.buf.Write(s.append(j.buf.AvailableBuffer()))
}

// append appends a line.
func (s seen) append(b []byte) []byte { return fmt.Appendf(b, "%s\t%s\n", s.position, s.content) }

// flush writes what was added. The system keeps it also when the process is killed.
func (j *journal) flush() error {
	_, err := j.file.Write(j.buf.Bytes())
	j.buf.Reset()
	return err
}

func (j *journal) close() error { return errors.Join(j.flush(), j.file.Close()) }

// readJournal calls f for each message of a journal, and for each start.
func readJournal(path string, f func(seen)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if lines.Text() == "" {
			f(seen{start: true})
			continue
		}
		position, content, ok := strings.Cut(lines.Text(), "\t")
		if !ok {
			return fmt.Errorf("%s: malformed line %q", path, lines.Text())
		}
		f(seen{position: position, content: content})
	}
	return lines.Err()
}

// place is a walchan.Position, read back.
type place walchan.Position

func parsePlace(s string) (place, error) {
	lsn, ordinal, _ := strings.Cut(s, ":")
	commit, err := walchan.ParseLSN(lsn)
	p := place{Commit: commit}
	if err == nil {
		_, err = fmt.Sscan(ordinal, &p.Ordinal)
	}
	return p, err
}

func (p place) before(q place) bool { return walchan.Position(p).Compare(walchan.Position(q)) < 0 }

func (p place) String() string { return walchan.Position(p).String() }
