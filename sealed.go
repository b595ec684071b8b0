package walchan

import "unsafe"

// sealed is row data or a payload: a string that package fmt cannot read. fmt calls no method of an unexported field of a struct, not even
// Format: it prints the strings in it. It does not follow a pointer to a byte, and prints the address.
type sealed struct {
	start *byte
	len   int
}

func seal(s string) sealed { return sealed{unsafe.StringData(s), len(s)} }

// text returns what is sealed, without a copy.
func (d sealed) text() string { return unsafe.String(d.start, d.len) }

// first returns the first n bytes, still sealed.
func (d sealed) first(n int) sealed { return seal(d.text()[:n]) }
