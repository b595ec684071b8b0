package begin

import "strings"

// NamesStandby says whether synchronous_standby_names has a name: "a, b", "FIRST 2 (a, b)", "ANY 1 (*)", with quotes where they
// are wanted (src/backend/replication/syncrep_gram.y). PostgreSQL compares names without regard to case.
func NamesStandby(setting, name string) bool {
	if i, j := strings.IndexByte(setting, '('), strings.LastIndexByte(setting, ')'); i >= 0 && j > i && !strings.Contains(setting[:i], `"`) {
		setting = setting[i+1 : j]
	}
	for _, n := range splitNames(setting) {
		if n == "*" || strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// splitNames splits at commas outside of quotes, and takes the quotes off.
func splitNames(list string) (names []string) {
	var b strings.Builder
	quoted := false
	for i := 0; i <= len(list); i++ {
		switch {
		case i == len(list), list[i] == ',' && !quoted:
			names = append(names, b.String())
			b.Reset()
		case list[i] == '"' && quoted && i+1 < len(list) && list[i+1] == '"':
			b.WriteByte('"')
			i++
		case list[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(" \t\n\r", list[i]) >= 0:
		default:
			b.WriteByte(list[i])
		}
	}
	return names
}
