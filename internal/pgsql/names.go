package pgsql

import (
	"fmt"
	"strings"
)

// IsSlotName allows what PostgreSQL allows (ReplicationSlotValidateName in src/backend/replication/slot.c).
func IsSlotName(name string) bool {
	ok := len(name) >= 1 && len(name) <= 63
	for i := 0; i < len(name); i++ {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_')
	}
	return ok
}

// NotSlotName says what is wrong with a name of which IsSlotName is false.
func NotSlotName(name string) string {
	return fmt.Sprintf("%q is not a slot name: use lower-case letters, digits and underscores, 63 at most", name)
}

// IsName says whether PostgreSQL can have a thing of that name (NAMEDATALEN in src/include/pg_config_manual.h).
func IsName(s string) bool { return s != "" && len(s) <= 63 && !strings.ContainsRune(s, 0) }

// Quoted quotes always; the replication grammar has keywords of its own (src/backend/replication/repl_scanner.l).
func Quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
