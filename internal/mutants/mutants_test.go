package main

import (
	"os"
	"strings"
	"testing"
)

// Every mutant has its place in the code.
func TestPlaces(t *testing.T) {
	for _, m := range mutants {
		b, err := os.ReadFile("../../" + m.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), m.old); n != 1 {
			t.Errorf("%s: its place stands %d times in %s", m.name, n, m.file)
		}
	}
}
