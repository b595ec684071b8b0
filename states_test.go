package walchan

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Every change of state in any test is looked up in the table. TestMain asks what was seen.
var seenTransitions struct {
	mu  sync.Mutex
	all map[[2]StreamState]int
}

func init() {
	seenTransitions.all = map[[2]StreamState]int{}
	watchTransitions = func(from, to StreamState) {
		seenTransitions.mu.Lock()
		defer seenTransitions.mu.Unlock()
		seenTransitions.all[[2]StreamState{from, to}]++
	}
}

// TransitionsBesideTheTable returns those that were seen and are not in the table.
func TransitionsBesideTheTable() (wrong []string) {
	seenTransitions.mu.Lock()
	defer seenTransitions.mu.Unlock()
	for t, n := range seenTransitions.all {
		if !slices.Contains(transitions[t[0]], t[1]) {
			wrong = append(wrong, fmt.Sprintf("%s to %s, %d times", t[0], t[1], n))
		}
	}
	return wrong
}

// TransitionsNotSeen returns those of the table that no test has made.
func TransitionsNotSeen() (missing []string) {
	seenTransitions.mu.Lock()
	defer seenTransitions.mu.Unlock()
	for from, all := range transitions {
		for _, to := range all {
			if seenTransitions.all[[2]StreamState{StreamState(from), to}] == 0 {
				missing = append(missing, fmt.Sprintf("%s to %s", StreamState(from), to))
			}
		}
	}
	return missing
}

// Each state has a name of its own, and a row in each table: that of transitions and that of the documents, which are the same.
func TestStatesAreComplete(t *testing.T) {
	documented := documentedStates(t)
	if len(documented) != states {
		t.Errorf("docs/architecture.md has %d states, and states.go %d", len(documented), states)
	}
	for s := range StreamState(states) {
		if s.String() == "" || slices.Index(stateNames[:], s.String()) != int(s) {
			t.Errorf("state %d has the name %q", s, s)
			continue
		}
		if transitions[s] == nil {
			t.Errorf("%s has no row in transitions", s)
		}
		if int(s) >= len(documented) {
			continue
		}
		row, goesTo := documented[s], "–"
		if len(transitions[s]) > 0 {
			goesTo = strings.Trim(fmt.Sprint(transitions[s]), "[]")
		}
		if row.name != s.String() || row.goesTo != goesTo {
			t.Errorf("docs/architecture.md says that %s goes to %s, and states.go that %s goes to %s", row.name, row.goesTo, s, goesTo)
		}
		if in := setIn(t, s); !slices.Equal(row.setIn, in) {
			t.Errorf("docs/architecture.md says that %s is set in %s, but that is in %s", s, row.setIn, in)
		}
	}
}

// documentedState is a row of the table in docs/architecture.md.
type documentedState struct {
	name   string
	setIn  []string
	goesTo string // with spaces in between
}

func documentedStates(t *testing.T) (rows []documentedState) {
	t.Helper()
	doc, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| state | what it is | set in | goes to |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	remark := regexp.MustCompile(` \(.*?\)`)
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(row, "| \n"), " | ")
		if len(cells) != 4 {
			t.Fatalf("docs/architecture.md has a row of another form: %s", row)
		}
		files := strings.Split(strings.ReplaceAll(cells[2], "`", ""), ", ")
		slices.Sort(files)
		rows = append(rows, documentedState{cells[0], files, strings.ReplaceAll(remark.ReplaceAllString(cells[3], ""), ",", "")})
	}
	return rows
}

// setIn returns the files that set a state, sorted.
func setIn(t *testing.T, s StreamState) (files []string) {
	t.Helper()
	name := "State" + strings.ToUpper(s.String()[:1]) + s.String()[1:]
	set := regexp.MustCompile(`setState\(` + name + `\b|[sS]tate(, \S+)* :?= .*\b` + name + `\b`)
	all, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file, "_test.go") && set.Match(text) {
			files = append(files, file)
		}
	}
	return files
}
