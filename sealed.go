package walchan

import "unsafe"

// sealed is row data or a payload: a string that package fmt cannot read. fmt calls no method of an unexported field of a struct, not even
// Format: it prints the strings in it. Of a pointer without a type it prints the address. Nor does reflect.DeepEqual follow one: of a pointer
// to a byte it would compare that byte, and take most rows for equal.
type sealed struct {
	start unsafe.Pointer
	len   int
}

func seal(s string) sealed { return sealed{unsafe.Pointer(unsafe.StringData(s)), len(s)} }

// text returns what is sealed, without a copy.
func (d sealed) text() string { return unsafe.String((*byte)(d.start), d.len) }

// first returns the first n bytes, still sealed.
func (d sealed) first(n int) sealed { return seal(d.text()[:n]) }
