package session

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Frame is what the server sends during streaming: data, or a keepalive.
type Frame struct {
	Keepalive      bool
	ReplyRequested bool   // keepalive
	Start          LSN    // data
	End            LSN    // data: as Start for logical; keepalive: how far the server has come
	SentAt         int64  // microseconds since 2000-01-01 UTC
	Data           []byte // valid until the next Fill
}

// Next takes the next frame out of the buffer. It returns false if there is no whole one: Fill then.
func (c *Conn) Next(f *Frame) (bool, error) {
	for {
		kind, body, ok, err := c.in.frame()
		if !ok || err != nil {
			return false, err
		}
		if kind == 'd' {
			return true, f.parse(body)
		}
		if err := c.other(kind, body); err != nil {
			return false, err
		}
	}
}

// Refuse has Next return err behind what it has returned so far. It is called by the handler of a notice.
func (c *Conn) Refuse(err error) { c.refusal = err }

func (f *Frame) parse(b []byte) error {
	switch {
	case len(b) >= 25 && b[0] == 'w':
		// Field by field: a literal would be made beside f and copied.
		f.Keepalive, f.ReplyRequested = false, false
		f.Start = LSN(binary.BigEndian.Uint64(b[1:9]))
		f.End = LSN(binary.BigEndian.Uint64(b[9:17]))
		f.SentAt = int64(binary.BigEndian.Uint64(b[17:25]))
		f.Data = b[25:]
		return nil
	case len(b) == 18 && b[0] == 'k':
		*f = Frame{
			Keepalive:      true,
			End:            LSN(binary.BigEndian.Uint64(b[1:])),
			SentAt:         int64(binary.BigEndian.Uint64(b[9:])),
			ReplyRequested: b[17] != 0,
		}
		return nil
	case len(b) == 0:
		return errors.New("malformed frame: empty CopyData")
	}
	return fmt.Errorf("malformed frame: CopyData of %d bytes begins with %q", len(b), b[0])
}

// other deals with what is not data.
func (c *Conn) other(kind byte, body []byte) error {
	switch kind {
	case 'E':
		var msg pgproto3.ErrorResponse
		if err := msg.Decode(body); err != nil {
			return fmt.Errorf("malformed ErrorResponse: %w", err)
		}
		return pgconn.ErrorResponseToPgError(&msg)
	case 'N':
		var msg pgproto3.NoticeResponse
		if err := msg.Decode(body); err != nil {
			return fmt.Errorf("malformed NoticeResponse: %w", err)
		}
		c.notice((*pgconn.Notice)(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(&msg))))
		return c.refusal
	case 'S':
		return nil // a setting was changed in the server's configuration
	case 'c':
		return ErrCopyDone
	case 'C', 'Z':
		c.serverDone = true
		return ErrServerStopped
	}
	return fmt.Errorf("unexpected message %q from the server", kind)
}
