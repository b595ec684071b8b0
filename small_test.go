package walchan_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// records are structs whose every field a user reads. They may be of any size, because they have no behaviour: a field more is a line more
// in a list, and to group them would only make their users write more.
var records = []string{
	"Slot",   // a row of pg_replication_slots
	"Listed", // the same as the server writes it
	"Stats",  // what a stream knows of itself
}

// larger are the other structs that have more fields than they should, and how many they may have.
var larger = map[string]int{
	"Event": 17, // of pgoutput: what any message has
	"State": 17, // of a server that internal/fakewal plays, which tests set
	"flags": 16, // of a program
}

// Rooms stay small enough to be read, and so do the tools.
func TestRoomsStaySmall(t *testing.T) {
	const mostLines, mostFields = 400, 15
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
				s, ok := spec.Type.(*ast.StructType)
				if ok && !slices.Contains(records, spec.Name.Name) && s.Fields.NumFields() > max(mostFields, larger[spec.Name.Name]) {
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
