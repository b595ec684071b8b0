package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// CopyRows turns what COPY … TO STDOUT sends into row blocks, those of Decode without an old tuple. It is not safe for
// concurrent use.
//
// The formats are described in the PostgreSQL documentation of COPY, "File Formats".
type CopyRows struct {
	Columns int    // of each row
	Text    []bool // with Binary: the columns whose values are text all the same; nil: none

	begun bool   // Binary: the header was seen
	block []byte // scratch: the block of a row
	table []byte // scratch: its table
}

var (
	errCopyRow    = errors.New("malformed row of COPY")
	errCopyHeader = errors.New("malformed header of COPY")
)

// Line takes a row in text format, as one CopyData has it ("Message Flow", COPY Operations: "always one per row").
func (c *CopyRows) Line(line []byte) (string, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	if c.Columns == 0 {
		if len(line) > 0 {
			return "", errCopyRow
		}
		c.reset(0)
		return c.done(), nil
	}
	c.reset(len(line))
	escaped := bytes.IndexByte(line, '\\') >= 0
	for n := 1; ; n++ {
		value, rest, more := bytes.Cut(line, tab) // a tab in a value is \t
		if more != (n < c.Columns) {
			return "", errCopyRow
		}
		switch {
		case !escaped || bytes.IndexByte(value, '\\') < 0:
			c.value('t', value)
		case len(value) == 2 && value[1] == 'N':
			c.null()
		default:
			if !c.unescape(value) {
				return "", errCopyRow
			}
		}
		if !more {
			return c.done(), nil
		}
		line = rest
	}
}

var tab = []byte{'\t'}

// unescape adds a value with backslashes. There are no others than those that CopyAttributeOutText in
// src/backend/commands/copyto.c writes: of control characters, and before a backslash.
func (c *CopyRows) unescape(value []byte) bool {
	start := len(c.block)
	c.value('t', nil)
	for {
		i := bytes.IndexByte(value, '\\')
		if i < 0 {
			break
		}
		if i+1 == len(value) {
			return false
		}
		c.block = append(c.block, value[:i]...)
		b := value[i+1]
		if at := bytes.IndexByte([]byte("bfnrtv"), b); at >= 0 {
			b = "\b\f\n\r\t\v"[at]
		}
		c.block = append(c.block, b)
		value = value[i+2:]
	}
	c.block = append(c.block, value...)
	binary.BigEndian.PutUint32(c.block[start+1:], uint32(len(c.block)-start-5))
	return true
}

// Binary takes the rows of a CopyData in binary format, and calls row with each.
func (c *CopyRows) Binary(b []byte, row func(block string) error) error {
	if !c.begun {
		const fixed = 11 + 4 + 4
		if len(b) < fixed || string(b[:11]) != "PGCOPY\n\377\r\n\x00" {
			return errCopyHeader
		}
		extension := binary.BigEndian.Uint32(b[15:])
		if uint64(extension) > uint64(len(b)-fixed) {
			return errCopyHeader
		}
		b = b[fixed+extension:]
		c.begun = true
	}
	for len(b) > 0 {
		if len(b) < 2 {
			return errCopyRow
		}
		n := int(int16(binary.BigEndian.Uint16(b)))
		if b = b[2:]; n == -1 && len(b) == 0 { // the trailer
			return nil
		} else if n != c.Columns {
			return errCopyRow
		}
		var err error
		if b, err = c.tuple(b); err != nil {
			return err
		}
		if err := row(c.done()); err != nil {
			return err
		}
	}
	return nil
}

func (c *CopyRows) tuple(b []byte) (rest []byte, err error) {
	c.reset(len(b))
	for i := range c.Columns {
		if len(b) < 4 {
			return nil, errCopyRow
		}
		size := int(int32(binary.BigEndian.Uint32(b)))
		b = b[4:]
		switch {
		case size == -1:
			c.null()
			continue
		case size < 0 || size > len(b):
			return nil, errCopyRow
		case c.Text != nil && c.Text[i]:
			c.value('t', b[:size])
		default:
			c.value('b', b[:size])
		}
		b = b[size:]
	}
	return b, nil
}

// reset begins a row of about size bytes.
func (c *CopyRows) reset(size int) {
	const most = 1 << 20 // what is kept of the scratch memory of a large row
	if cap(c.block) > most && size < most/2 {
		c.block = nil
	}
	c.block = slices.Grow(c.block[:0], 3+5*c.Columns+size+TableSize(c.Columns))
	c.block = append(c.block, 'N', byte(c.Columns>>8), byte(c.Columns))
	c.table = append(c.table[:0], 0, 0, 0, 0)
}

func (c *CopyRows) null() {
	c.table = binary.LittleEndian.AppendUint32(c.table, uint32(len(c.block)))
	c.block = append(c.block, 'n')
}

func (c *CopyRows) value(kind byte, v []byte) {
	c.table = binary.LittleEndian.AppendUint32(c.table, uint32(len(c.block)))
	n := len(v)
	c.block = append(c.block, kind, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	c.block = append(c.block, v...)
}

func (c *CopyRows) done() string {
	c.block = append(c.block, c.table...)
	return string(c.block)
}
