package txn

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"slices"
)

const (
	chunkSize  = 64 << 10
	readBuffer = 256 << 10
)

// spool is a sequence of bytes that grows and is cut at its end: the first part in a file, the rest in memory.
type spool struct {
	size   int64
	file   *os.File // nil: all is in memory
	unlink string   // the file's name, if it could not be removed at once
	onDisk int64    // how much is in the file

	chunks [][]byte // the rest; what was grown at once lies in one of them
	memory int      // their capacities
}

// grow returns n more bytes at the end, to be written to.
func (p *spool) grow(s *Store, n int) []byte {
	last := len(p.chunks) - 1
	if last < 0 || cap(p.chunks[last])-len(p.chunks[last]) < n {
		c := s.chunk(n)
		p.chunks = append(p.chunks, c)
		p.memory += cap(c)
		last++
	}
	c := p.chunks[last]
	p.chunks[last] = c[:len(c)+n]
	p.size += int64(n)
	return c[len(c) : len(c)+n]
}

// cut drops what lies behind the first size bytes.
func (p *spool) cut(s *Store, size int64) error {
	for len(p.chunks) > 0 && p.size > size {
		last := len(p.chunks) - 1
		c := p.chunks[last]
		begin := p.size - int64(len(c))
		if begin < size {
			p.chunks[last], p.size = c[:size-begin], size
			return nil
		}
		p.release(s, last)
		p.size = begin
	}
	p.size = size
	if size >= p.onDisk {
		return nil
	}
	s.disk -= p.onDisk - size
	p.onDisk = size
	return p.file.Truncate(size)
}

// release gives back the chunks from the n-th on.
func (p *spool) release(s *Store, n int) {
	for _, c := range p.chunks[n:] {
		p.memory -= cap(c)
		s.reuse(c)
	}
	clear(p.chunks[n:])
	p.chunks = p.chunks[:n]
}

// spill moves what is in memory to the file.
func (p *spool) spill(s *Store) error {
	if p.file == nil {
		if err := p.create(s.Dir); err != nil {
			return err
		}
	}
	for _, c := range p.chunks {
		n, err := p.file.WriteAt(c, p.onDisk)
		p.onDisk += int64(n)
		s.disk += int64(n)
		if err != nil {
			return err
		}
	}
	p.release(s, 0)
	return nil
}

// create makes a file that only its owner can read (os.CreateTemp gives it mode 0600), and that is gone from its directory
// at once where the system lets one remove an open file: then it leaves nothing behind, however the process ends.
func (p *spool) create(dir string) error {
	file, err := os.CreateTemp(dir, "walchan-*.spool")
	if err != nil {
		return err
	}
	p.file = file
	if os.Remove(p.file.Name()) != nil {
		p.unlink = p.file.Name()
	}
	return nil
}

// TryDir says whether a temporary file can be made in dir.
func TryDir(dir string) error {
	var p spool
	defer p.close(&Store{})
	return p.create(dir)
}

// player reads the records of a transaction, from the first to the last, through a buffer of its own. Nothing may be added meanwhile.
type player struct {
	of   *Transaction
	in   *bufio.Reader
	rec  Record
	long []byte // for what does not fit into the buffer
}

func (t *Transaction) play() *player {
	p := &t.spool
	parts := []io.Reader{io.NewSectionReader(p.file, 0, p.onDisk)}
	for _, c := range p.chunks {
		parts = append(parts, bytes.NewReader(c))
	}
	return &player{of: t, in: bufio.NewReaderSize(io.MultiReader(parts...), readBuffer)}
}

// next returns the next record, which is valid until the next call; nil: there is none. An error is that of the temporary file.
func (p *player) next() (*Record, error) {
	head, err := p.in.Peek(headerSize)
	if err == io.EOF && len(head) == 0 {
		return nil, nil
	}
	if err == nil {
		size := p.rec.parse(head)
		if size <= readBuffer {
			var b []byte
			if b, err = p.in.Peek(size); err == nil {
				p.rec.Data = b[headerSize:]
			}
			// Discard moves nothing: the bytes stay until the next Peek.
			p.in.Discard(len(b))
		} else {
			p.long = slices.Grow(p.long[:0], size)[:size]
			_, err = io.ReadFull(p.in, p.long)
			p.rec.Data = p.long[headerSize:]
		}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return &p.rec, nil
}

func (p *spool) close(s *Store) {
	p.release(s, 0)
	if len(s.open) == 0 {
		s.free = nil // there may be no transaction for long
	}
	if p.file == nil {
		return
	}
	s.disk -= p.onDisk
	p.onDisk = 0
	p.file.Close()
	if p.unlink != "" {
		os.Remove(p.unlink)
	}
	p.file = nil
}

// chunk returns an empty one with room for n bytes.
func (s *Store) chunk(n int) []byte {
	size := max(n, chunkSize)
	s.memory += size
	if last := len(s.free) - 1; last >= 0 && size == chunkSize {
		c := s.free[last]
		s.free = s.free[:last]
		return c[:0]
	}
	if s.memory+len(s.free)*chunkSize > s.Limit {
		s.free = nil
	}
	return make([]byte, 0, size)
}

// reuse takes a chunk back, and keeps it if that is within the limit.
func (s *Store) reuse(c []byte) {
	s.memory -= cap(c)
	if cap(c) == chunkSize && s.memory+(len(s.free)+1)*chunkSize <= s.Limit {
		s.free = append(s.free, c)
	}
}
