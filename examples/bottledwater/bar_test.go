package main

import (
	"strings"
	"testing"

	"github.com/walchan/walchan"
)

func TestBar(t *testing.T) {
	var out strings.Builder
	b := &bar{w: &out}
	tables := []walchan.TableProgress{
		{Table: "public.a", Rows: 10, EstimatedBytes: 600, Bytes: 900, Done: true},
		{Table: "public.b", Rows: 5, EstimatedBytes: 300, Bytes: 150},
		{Table: "public.c", EstimatedBytes: 100},
	}
	b.show(nil)
	if !b.isDue() {
		t.Error("it is not shown at once")
	}
	b.show(tables)
	if b.isDue() {
		t.Error("it is shown again at once")
	}
	for i := range tables {
		tables[i].Done = true
	}
	b.show(tables)
	b.show(tables)
	b.end()
	const clear = "\r\x1b[K"
	compare(t, out.String(), clear+"snapshot [######################........]  75 %  15 rows  public.b"+clear)
	if (*bar)(nil).isDue() {
		t.Error("it is shown to nobody")
	}
	(*bar)(nil).end()
	if got := progress([]walchan.TableProgress{{Table: "t"}}); !strings.Contains(got, "100 %") {
		t.Error(got)
	}
}
