package main

import "testing"

func TestMarkerIn(t *testing.T) {
	for _, s := range []string{"812 INSERT public.marker id=17", "table public.marker: INSERT: id[integer]:17"} {
		if n, ok := markerIn(short(s)); n != 17 || !ok {
			t.Errorf("%q: %d, %t", s, n, ok)
		}
	}
	if _, ok := markerIn("812 BEGIN"); ok {
		t.Error("marker in BEGIN")
	}
}
