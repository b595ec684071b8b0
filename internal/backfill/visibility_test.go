package backfill

import "testing"

// A transaction's number has 32 bits in the stream, and 64 in a snapshot.
func TestVisibility(t *testing.T) {
	for _, test := range []struct {
		snapshot string
		seen     []uint32
		unseen   []uint32
	}{
		{"100:110:100,105", []uint32{3, 99, 101, 104, 106, 109}, []uint32{100, 105, 110, 1000}},
		{"100:100:", []uint32{99}, []uint32{100}},
		{"30064771082:30064771082:", []uint32{9, 4294967295}, []uint32{10, 11}},                                  // 7<<32 + 10
		{"30064771070:30064771074:30064771071,30064771073", []uint32{4294967293, 0}, []uint32{4294967295, 1, 2}}, // around 7<<32
	} {
		v, err := parseVisibility(test.snapshot)
		if err != nil {
			t.Fatal(err)
		}
		for _, xid := range test.seen {
			if !v.sees(xid) {
				t.Errorf("%s does not see %d", test.snapshot, xid)
			}
		}
		for _, xid := range test.unseen {
			if v.sees(xid) {
				t.Errorf("%s sees %d", test.snapshot, xid)
			}
		}
	}
	for _, s := range []string{"", "1:2", "a:2:", "1:2:x"} {
		if _, err := parseVisibility(s); err == nil {
			t.Errorf("%q is a snapshot", s)
		}
	}
}
