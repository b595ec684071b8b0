package pgsql

import (
	"strings"
	"testing"
)

func TestQuoting(t *testing.T) {
	for in, want := range map[string]string{"orders": "orders", "_a1": "_a1", "1a": `"1a"`, "Orders": `"Orders"`, `a"b`: `"a""b"`, "": `""`, "é": `"é"`} {
		if got := Ident(in); got != want {
			t.Errorf("Ident(%q) is %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"a": "'a'", "it's": "'it''s'", `a\b`: ` E'a\\b'`, `\'`: ` E'\\'''`, "": "''"} {
		if got := Literal(in); got != want {
			t.Errorf("Literal(%q) is %s, want %s", in, got, want)
		}
	}
	if got := Literals([]string{"a", "b'c"}); got != "'a', 'b''c'" {
		t.Errorf("Literals: %s", got)
	}
	if got := Quoted(`slot"x`); got != `"slot""x"` {
		t.Errorf("Quoted: %s", got)
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string][2]bool{ // of a slot, of anything
		"orders_1": {true, true}, long: {true, true}, long + "a": {false, false}, "": {false, false}, "Orders": {false, true}, "a-b": {false, true}, "a\x00": {false, false},
	} {
		if IsSlotName(name) != want[0] || IsName(name) != want[1] {
			t.Errorf("%q: %v, %v", name, IsSlotName(name), IsName(name))
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, x := range []struct {
		pattern, schema, name string
		visible, want         bool
	}{
		{"shop.orders", "shop", "orders", false, true},
		{"SHOP.Orders", "shop", "orders", false, true},
		{`shop."Orders"`, "shop", "orders", true, false},
		{`shop."Orders"`, "shop", "Orders", false, true},
		{"orders", "shop", "orders", true, true},
		{"orders", "shop", "orders", false, false},
		{"*", "shop", "orders", false, true},
		{"shop.*", "shop", "orders", false, true},
		{"shop.*", "other", "orders", false, false},
		{"*_log", "shop", "a_log", true, true},
		{"*_log", "shop", "a_log_b", true, false},
		{"a*b*c", "shop", "axxbyyc", true, true},
		{"a*b*c", "shop", "axxc", true, false},
		{"a*a", "shop", "a", true, false},
		{`"a*"`, "shop", "ab", true, false},
		{`"a*"`, "shop", "a*", true, true},
	} {
		p, err := ParsePattern(x.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Matches(x.schema, x.name, x.visible); got != x.want {
			t.Errorf("%s and %s.%s (visible: %v): %v", x.pattern, x.schema, x.name, x.visible, got)
		}
	}
	for _, wrong := range []string{"", "a.b.c", "a.", ".a", `"a`, "a\x00b"} {
		if _, err := ParsePattern(wrong); err == nil {
			t.Errorf("%q is a pattern", wrong)
		}
	}
}
