package main

func init() {
	mutants = append(mutants, []mutant{
		// What a person at a terminal sees and does.
		{"terminal: the TLS that was preferred is told", "errors.go", "		if refused && i+1 < len(attempts)", "		if false && refused && i+1 < len(attempts)", "", "TestErrorWithoutTheTLS"},
		{"terminal: the TLS that is demanded is not told", "errors.go", " && strings.HasPrefix(attempts[i+1].Error(), address) {", " && address != \"\" {", "", "TestErrorWithoutTheTLS"},
		{"terminal: any file's end is cut off", "examples/bottledwater/output.go", "first[0] != '{'", "false", "examples/bottledwater", "TestMistakes"},
		{"terminal: what is no flag is ignored", "examples/quickstart/main.go", "case flag.NArg() > 0:", "case false:", "examples/quickstart", "TestMistakes"},
		{"terminal: Ctrl-C waits for the next line", "examples/cache/main.go", "				if !open || !yield(line) {\n					return\n				}\n			case <-ctx.Done():\n				return\n", "				if !open || !yield(line) {\n					return\n				}\n", "examples/cache", "TestStoppedWhile"},
	}...)
}
