package pgoutput

import (
	"encoding/binary"
	"slices"
	"strings"
)

// row reads the tuples of an Insert, Update or Delete and makes the block.
func (d *Decoder) row(ev *Event) {
	start := d.at
	d.table = d.table[:0]
	switch k := d.byte(); {
	case k == 'N' && ev.Type != Delete:
		ev.N = d.tuple(start)
	case (k == 'K' || k == 'O') && ev.Type != Insert:
		ev.N = d.tuple(start)
		if ev.Type == Delete {
			ev.Split = uint32(len(d.table))
			break
		}
		old := len(d.table)
		if d.byte() != 'N' {
			d.fail(d.at-1, "new row expected")
			return
		}
		if n := d.tuple(start); n != ev.N {
			d.fail(d.at, "old and new row differ in columns")
			return
		}
		ev.Split = uint32(old)
		d.fillUnchanged(start, ev.N)
	default:
		d.fail(start, "unexpected kind of row")
	}
	if d.problem != "" {
		return
	}
	size := len(d.b) - start + len(d.table)
	rows := &d.rows
	switch {
	case size > smallRow:
		rows = new(strings.Builder)
		rows.Grow(size)
	case rows.Cap()-rows.Len() < size:
		*rows = strings.Builder{}
		rows.Grow(sharedRows)
	}
	from := rows.Len()
	rows.Write(d.b[start:])
	rows.Write(d.table[ev.Split:])
	if ev.Split > 0 {
		rows.Write(d.table[:ev.Split]) // the old row's table was read first and stands last
	}
	ev.Block = rows.String()[from:]
}

// Small rows share memory, because it costs more to get than to fill. Whoever keeps one of them keeps at most so much.
const (
	sharedRows = 1024
	smallRow   = sharedRows / 4
)

// tuple reads a tuple behind its kind byte, and appends its offsets, counted from start, to the table.
func (d *Decoder) tuple(start int) int {
	b, at := d.b, d.at
	if len(b)-at < 2 {
		d.fail(at, "truncated")
		return 0
	}
	n := int(b[at])<<8 | int(b[at+1])
	size := TableSize(n)
	d.table = slices.Grow(d.table, size)
	t := d.table[len(d.table) : len(d.table)+size]
	binary.LittleEndian.PutUint32(t, uint32(at-1-start))
	at += 2
	for t = t[entry:]; len(t) >= entry; t = t[entry:] {
		if at >= len(b) {
			d.fail(at, "truncated")
			return 0
		}
		binary.LittleEndian.PutUint32(t, uint32(at-start))
		kind := b[at]
		at++
		switch kind {
		case 't', 'b':
			if len(b)-at < 4 {
				d.fail(at, "truncated")
				return 0
			}
			size := uint64(binary.BigEndian.Uint32(b[at:]))
			if at += 4; size > uint64(len(b)-at) {
				d.fail(at, "value is longer than the message")
				return 0
			}
			at += int(size)
		case 'n', 'u':
		default:
			d.fail(at-1, "unknown kind of column")
			return 0
		}
	}
	d.table, d.at = d.table[:len(d.table)+size], at
	return n
}

// fillUnchanged points the unchanged TOASTed columns of the new row at the old row's values, where there is a whole old
// row (or the column belongs to the key).
func (d *Decoder) fillUnchanged(start, n int) {
	old, new := d.table[:TableSize(n)], d.table[TableSize(n):]
	tuples := d.b[start:]
	for i := entry; i < len(new); i += entry {
		if tuples[binary.LittleEndian.Uint32(new[i:])] != 'u' {
			continue
		}
		if c := tuples[binary.LittleEndian.Uint32(old[i:])]; c == 't' || c == 'b' {
			copy(new[i:i+entry], old[i:i+entry])
		}
	}
}
