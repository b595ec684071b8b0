package walchan_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the README and the documents say is in the repository: each test they name, each file they link to, and their code in an
// example, which is compiled.
func TestReadme(t *testing.T) {
	documents, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var readme strings.Builder
	for _, f := range append(documents, "README.md") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		readme.Write(b)
		for _, link := range regexp.MustCompile(`\]\(([^)#: ]+)\)`).FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(f), link[1])); err != nil {
				t.Errorf("%s links to nothing: %v", f, err)
			}
		}
		for _, link := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(string(b), -1) {
			if !strings.Contains(anchors(string(b)), "#"+link[1]+"\n") {
				t.Errorf("%s has no heading for #%s", f, link[1])
			}
		}
	}
	files := []string{"admin/example_test.go", "admin/harm_test.go", "admin/slots_test.go", "walchantest/example_test.go", "pipeline/example_test.go", "pipeline/guide_test.go"}
	for _, pattern := range []string{"*_test.go", "internal/*/*_test.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	var source strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.WriteString(unindented(string(b)))
	}
	for _, name := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(readme.String(), -1) {
		if !strings.Contains(source.String(), "\nfunc "+name[1]+"(t *testing.T)") {
			t.Errorf("there is no %s", name[1])
		}
	}
	for _, code := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readme.String(), -1) {
		if !strings.Contains(source.String(), unindented(code[1])) {
			t.Errorf("no example has\n%s", code[1])
		}
	}
}

// anchors are the headings as GitHub links to them, a line each.
func anchors(document string) string {
	var b strings.Builder
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(document, -1) {
		plain := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		b.WriteString("#" + strings.ReplaceAll(plain, " ", "-") + "\n")
	}
	return b.String()
}

func unindented(code string) string {
	var b strings.Builder
	for line := range strings.Lines(code) {
		b.WriteString(strings.TrimLeft(line, " \t"))
	}
	return b.String()
}
