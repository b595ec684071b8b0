package main

import "testing"

// Every mutant has its place in the code, and tests that are to notice it.
func TestPlaces(t *testing.T) {
	c, err := readCode("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if _, err := c.find(m); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if _, err := c.packages(m.run); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
