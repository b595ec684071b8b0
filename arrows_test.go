package walchan_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The rooms of the house, each above what it may use: see docs/architecture.md. Tools stand outside.
var rooms = []string{
	"", // the root
	"admin",
	"internal/feed",
	"internal/backfill",
	"internal/snapshot",
	"internal/line",
	"internal/begin",
	"internal/tables",
	"internal/slots",
	"internal/walrecord",
	"internal/dial",
	"internal/link",
	"internal/ledger",
	"internal/resume",
	"internal/txn",
	"internal/value",
	"internal/session",
	"internal/pgoutput",
	"internal/pgjson",
	"internal/pgsql",
	"internal/pgtime",
	"internal/pgfail",
	"walerr",
	"internal/causes",
	"internal/sqlstate",
	"internal/kit",
	"wal",
}

// knowNoServer are rooms that no session may come into: they are values, counting and text.
var knowNoServer = []string{"internal/value", "internal/link", "internal/ledger", "internal/resume", "internal/pgsql", "internal/txn", "internal/pgoutput"}

func TestArrowsPointDown(t *testing.T) {
	const module = "github.com/walchan/walchan"
	var packages []string
	for _, room := range rooms {
		packages = append(packages, strings.TrimSuffix(module+"/"+room, "/"))
	}
	out, err := exec.Command("go", append([]string{"list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}"}, packages...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		from := slices.Index(packages, fields[0])
		for _, imported := range fields[1:] {
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			switch to := slices.Index(packages, imported); {
			case to < 0:
				t.Errorf("%s uses %s, which is no room", fields[0], imported)
			case to <= from:
				t.Errorf("%s uses %s, which is above it", fields[0], imported)
			case imported == module+"/internal/session" && slices.Contains(knowNoServer, rooms[from]):
				t.Errorf("%s uses a session", fields[0])
			}
		}
	}
}

// docs/architecture.md lists the same rooms in the same order.
func TestRoomsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(doc), "```\n")
	list, _, _ = strings.Cut(list, "```")
	var documented []string
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(line, " ")
		documented = append(documented, strings.TrimPrefix(name, "walchan"))
	}
	if !slices.Equal(documented, rooms) {
		t.Errorf("docs/architecture.md has the rooms %q, want %q", documented, rooms)
	}
}
