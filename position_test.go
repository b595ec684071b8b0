package walchan

import (
	"encoding/json"
	"testing"
)

var badPositions = []string{"", ":", "/:", "0/0", "0/0:", "0/:1", "/0:1", ":1", "1:1", "0/0:-1", "0/0:+1", "0/0:1 ", " 0/0:1", "0/0: 1", "0/0:4294967296", "100000000/0:1",
	"0/100000000:1", "0/0:1:1", "0/0/0:1", "0x1/0:1", "0/g:1", "1_0/0:1", "0/0:a", "-0/0:1", "none"}

func TestParsePosition(t *testing.T) {
	for _, p := range []Position{{}, {1, 0}, {0x16_B374D848, 3}, {^LSN(0), ^uint32(0)}} {
		if back, err := ParsePosition(p.String()); err != nil || back != p {
			t.Errorf("%s is read as %s, %v", p, back, err)
		}
		j, err := json.Marshal(map[Position]Position{p: p})
		var back map[Position]Position
		if err != nil || json.Unmarshal(j, &back) != nil || back[p] != p || string(j) != `{"`+p.String()+`":"`+p.String()+`"}` {
			t.Errorf("%s is %s in JSON, and read as %v; %v", p, j, back, err)
		}
	}
	if p, err := ParsePosition("16/b374d848:3"); err != nil || p != (Position{0x16_B374D848, 3}) {
		t.Errorf("lower case is read as %s, %v", p, err)
	}
	for _, text := range badPositions {
		if p, err := ParsePosition(text); err == nil || p != (Position{}) {
			t.Errorf("%q is read as %s, %v", text, p, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("16/B374D848:3")
	for _, text := range badPositions {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePosition(text)
		if err != nil {
			if p != (Position{}) {
				t.Errorf("%q is refused, and gives %s", text, p)
			}
			return
		}
		if back, err := ParsePosition(p.String()); err != nil || back != p {
			t.Errorf("%q is %s, which is read as %s, %v", text, p, back, err)
		}
	})
}
