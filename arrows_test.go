package walchan_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The rooms of the house, each above what it may use: see docs/architecture.md. Tools stand outside.
var rooms = []string{
	"", // the root
	"admin",
	"internal/backfill",
	"internal/snapshot",
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

// Rooms stay small enough to be read, and so do the tools. The larger structs are named: records that users or tests read, and some that
// are still to be cut.
func TestRoomsStaySmall(t *testing.T) {
	const mostLines, mostFields = 400, 15
	larger := map[string]int{"Stats": 20, "Slot": 20, "Listed": 20, "Event": 17, "Ledger": 20, "gauge": 16, "State": 17, "flags": 16}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return err
		}
		if n := fset.File(file.Pos()).LineCount(); n > mostLines {
			t.Errorf("%s has %d lines", name, n)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok && s.Fields.NumFields() > max(mostFields, larger[spec.Name.Name]) {
					t.Errorf("%s: %s has %d fields", name, spec.Name.Name, s.Fields.NumFields())
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
