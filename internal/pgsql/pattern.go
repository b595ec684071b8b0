package pgsql

import (
	"fmt"
	"slices"
	"strings"
)

// pattern is the name of a table in which * stands for any characters.
type pattern struct{ schema, name string } // schema "": what the search_path finds

// ParsePattern reads a name as in SQL, with *: outside of quotes capital letters are small ones.
func ParsePattern(s string) (pattern, error) {
	var parts []string
	var part strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case b == '"' && quoted && i+1 < len(s) && s[i+1] == '"':
			part.WriteByte('"')
			i++
		case b == '"':
			quoted = !quoted
		case b == '*' && !quoted:
			part.WriteByte(wildcard)
		case b == '.' && !quoted:
			parts = append(parts, part.String())
			part.Reset()
		case b >= 'A' && b <= 'Z' && !quoted:
			part.WriteByte(b + 'a' - 'A')
		default:
			part.WriteByte(b)
		}
	}
	parts = append(parts, part.String())
	if quoted || len(parts) > 2 || slices.Contains(parts, "") || strings.ContainsRune(s, 0) {
		return pattern{}, fmt.Errorf("%q is not the name of a table: write it as in SQL (shop.orders, shop.\"Order\"), with * for any characters", s)
	}
	if len(parts) == 1 {
		return pattern{"", parts[0]}, nil
	}
	return pattern{parts[0], parts[1]}, nil
}

// wildcard is * in a pattern. No name has it.
const wildcard = 0

// Matches says whether it is the name of a table. visible says that the search_path finds the table.
func (p pattern) Matches(schema, name string, visible bool) bool {
	if p.schema == "" {
		// * alone means all that there are.
		return (visible || p.name == string(rune(wildcard))) && like(p.name, name)
	}
	return like(p.schema, schema) && like(p.name, name)
}

// like says whether a name is as the pattern says.
func like(pattern, name string) bool {
	pieces := strings.Split(pattern, string(rune(wildcard)))
	if len(pieces) == 1 {
		return pattern == name
	}
	first, last := pieces[0], pieces[len(pieces)-1]
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for _, piece := range pieces[1 : len(pieces)-1] {
		_, after, found := strings.Cut(name, piece)
		if !found {
			return false
		}
		name = after
	}
	return strings.HasSuffix(name, last)
}
