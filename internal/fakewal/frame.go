package fakewal

import (
	"encoding/binary"
	"io"
	"time"
)

// Frame is one XLogData message.
type Frame struct {
	Start, End LSN // dataStart and walEnd
	Payload    []byte
}

const headerLen = 1 + 4 + 1 + 8 + 8 + 8 // CopyData, its length, 'w', start, end, clock

// Append appends the message as it is on the wire, with the clock of now.
func (f Frame) Append(b []byte) []byte {
	b = append(b, 'd')
	b = be.AppendUint32(b, uint32(headerLen-1+len(f.Payload)))
	b = append(b, 'w')
	b = be.AppendUint64(b, uint64(f.Start))
	b = be.AppendUint64(b, uint64(f.End))
	b = be.AppendUint64(b, uint64(micros(time.Now())))
	return append(b, f.Payload...)
}

// AppendKeepalive appends a primary keepalive message as it is on the wire.
func AppendKeepalive(b []byte, walEnd LSN, reply bool) []byte {
	b = append(b, 'd', 0, 0, 0, 4+1+8+8+1, 'k')
	b = be.AppendUint64(b, uint64(walEnd))
	b = be.AppendUint64(b, uint64(micros(time.Now())))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}

// Replay sends recorded messages (Frame.Append, AppendKeepalive) as fast as the client reads, in large writes. Automatic
// replies wait until it has ended, and the position they say does not know of it.
func (c *Conn) Replay(r io.Reader) error {
	_, err := c.writing(func() (int64, error) { return io.CopyBuffer(c.wire, r, make([]byte, 256<<10)) })
	return err
}

// Repeat reads recorded messages n times. Each time all positions, in the headers and in pgoutput's Begin, Commit and
// Message, are step higher than the time before, so that a client sees time go by; 0 leaves them.
func Repeat(recorded []byte, n int, step LSN) io.Reader {
	r := &repeater{buf: append([]byte(nil), recorded...), left: n, step: step}
	r.at = len(r.buf)
	if step != 0 {
		r.positions = positions(recorded)
	}
	return r
}

type repeater struct {
	buf       []byte
	at        int   // how much of buf is read
	positions []int // offsets of LSNs in buf
	left      int   // rounds not begun
	begun     bool
	step      LSN
}

func (r *repeater) Read(b []byte) (int, error) {
	if r.at == len(r.buf) {
		if r.left == 0 || len(r.buf) == 0 {
			return 0, io.EOF
		}
		if r.begun {
			for _, i := range r.positions {
				be.PutUint64(r.buf[i:], be.Uint64(r.buf[i:])+uint64(r.step))
			}
		}
		r.at, r.begun = 0, true
		r.left--
	}
	n := copy(b, r.buf[r.at:])
	r.at += n
	return n, nil
}

// positions finds the LSNs in recorded messages. Zero is none: a Relation has no position.
func positions(b []byte) (at []int) {
	for i := 0; i < len(b); i += 1 + int(be.Uint32(b[i+1:])) {
		fields := []int{6}
		if b[i+5] == 'w' {
			fields = append(fields, 14)
			switch body := headerLen; b[i+body] {
			case 'B':
				fields = append(fields, body+1)
			case 'C':
				fields = append(fields, body+2, body+10)
			case 'M':
				fields = append(fields, body+2)
			}
		}
		for _, f := range fields {
			if be.Uint64(b[i+f:]) != 0 {
				at = append(at, i+f)
			}
		}
	}
	return at
}

var be = binary.BigEndian

// Times are microseconds since 2000-01-01 UTC.
const unixToPostgres = 946684800 * 1000000

func micros(t time.Time) int64      { return t.UnixMicro() - unixToPostgres }
func fromMicros(us int64) time.Time { return time.UnixMicro(us + unixToPostgres) }
