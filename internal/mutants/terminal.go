package main

func init() {
	mutants = append(mutants, []mutant{
		// What a person at a terminal sees and does.
		{"terminal: the TLS that was preferred is told", "		if refused && i+1 < len(attempts)", "		if false && refused && i+1 < len(attempts)", "TestErrorWithoutTheTLS"},
		{"terminal: the TLS that is demanded is not told", " && strings.HasPrefix(attempts[i+1].Error(), address) {", " && address != \"\" {", "TestErrorWithoutTheTLS"},
		{"terminal: any file's end is cut off", "first[0] != '{'", "false", "TestMistakes"},
		{"terminal: what is no flag is ignored", "case flag.NArg() > 0:", "case false:", "TestMistakes"},
		{"terminal: Ctrl-C waits for the next line", "				if !open || !yield(line) {\n					return\n				}\n			case <-ctx.Done():\n				return\n", "				if !open || !yield(line) {\n					return\n				}\n", "TestStoppedWhile"},
	}...)
}
