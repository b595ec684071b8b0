package session

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	minBuffer = 32 << 10
	maxBuffer = 512 << 10 // what the buffer grows to for speed; larger messages make it grow further, for their time
	sumptuous = 8 << 20   // a buffer that is let go at once
	patience  = 64        // fills without large messages until a smaller one is
	maxFrame  = 1 << 30   // PQ_LARGE_MESSAGE_LIMIT: MaxAllocSize-1
)

var errFrame = errors.New("malformed frame: the length is out of range")

// reader reads the server's messages ("frames") through one buffer. During start-up it is the io.Reader of pgx's
// Frontend, and never hands it bytes beyond the end of the current message; so once streaming has begun nothing is left
// in pgx's own buffer, and frame and fill can take over without a copy or a system call more than needed.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is unread
	left int // bytes of the current message that pgx has still to read

	more  func() bool // src has bytes that need not be waited for; nil: not known
	small int         // fills since the last large message
}

// Read implements io.Reader for pgx.
func (r *reader) Read(p []byte) (int, error) {
	for r.left == 0 {
		size, err := r.size()
		if err != nil {
			return 0, err
		}
		r.left = size
		if size == 0 {
			if err := r.fill(); err != nil {
				return 0, err
			}
		}
	}
	if r.r == r.w {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:min(r.w, r.r+r.left)])
	r.r += n
	r.left -= n
	return n, nil
}

// size returns the length of the next frame with its header, or 0 while that is not known.
func (r *reader) size() (int, error) {
	if r.w-r.r < 5 {
		return 0, nil
	}
	n := binary.BigEndian.Uint32(r.buf[r.r+1:])
	if n < 4 || n > maxFrame {
		return 0, errFrame
	}
	return int(n) + 1, nil
}

// frame returns the next frame if it is wholly in the buffer. body is valid until the next fill.
func (r *reader) frame() (kind byte, body []byte, ok bool, err error) {
	size, err := r.size()
	if err != nil || size == 0 || r.w-r.r < size {
		return 0, nil, false, err
	}
	if size > maxBuffer {
		r.small = 0
	}
	kind, body = r.buf[r.r], r.buf[r.r+5:r.r+size:r.r+size]
	r.r += size
	return kind, body, true, nil
}

// fill reads once from the connection.
func (r *reader) fill() error {
	r.makeRoom()
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	for err == nil && r.more != nil && r.w < len(r.buf) && r.more() {
		var m int
		m, err = r.src.Read(r.buf[r.w:])
		r.w += m
	}
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (r *reader) makeRoom() {
	unread := r.w - r.r
	want := len(r.buf)
	switch {
	case r.buf == nil:
		want = minBuffer
	case unread == len(r.buf):
		want = 2 * len(r.buf) // a frame larger than the buffer; twice what came, not what its header claims
	case r.w == len(r.buf) && len(r.buf) < maxBuffer:
		want = 2 * len(r.buf) // the last read filled it: the stream is busy
	case len(r.buf) > maxBuffer && unread < minBuffer:
		if r.small++; r.small > patience || len(r.buf) > sumptuous {
			want = maxBuffer // the large messages are over
		}
	}
	switch {
	case want != len(r.buf):
		buf := make([]byte, want)
		copy(buf, r.buf[r.r:r.w])
		r.buf, r.r, r.w = buf, 0, unread
	case unread == 0:
		r.r, r.w = 0, 0
	case r.w == len(r.buf) || r.r > len(r.buf)/2:
		copy(r.buf, r.buf[r.r:r.w])
		r.r, r.w = 0, unread
	}
}
