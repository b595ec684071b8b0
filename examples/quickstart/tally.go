package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/walchan/walchan"
)

// tally counts what was seen.
type tally struct {
	began        time.Time
	messages     int // without Begin and Commit
	kinds        map[walchan.Kind]int
	transactions int
	tx           *walchan.Tx // the last one
}

func newTally() *tally { return &tally{began: time.Now(), kinds: map[walchan.Kind]int{}} }

func (t *tally) add(m walchan.Message) {
	if m.Tx != nil && m.Tx != t.tx { // the messages of a transaction share it
		t.transactions++
		t.tx = m.Tx
	}
	if m.Kind != walchan.Begin && m.Kind != walchan.Commit {
		t.messages++
		t.kinds[m.Kind]++
	}
}

func (t *tally) String() string {
	var kinds []string
	for k := walchan.Insert; k <= walchan.Raw; k++ {
		if n := t.kinds[k]; n > 0 {
			kinds = append(kinds, count(n, names[k]))
		}
	}
	s := "seen: nothing"
	if len(kinds) > 0 {
		s = "seen: " + strings.Join(kinds, ", ")
	}
	if t.transactions > 0 {
		s += " in " + count(t.transactions, "transaction")
	}
	return fmt.Sprintf("%s, %.1f s", s, time.Since(t.began).Seconds())
}

var names = map[walchan.Kind]string{
	walchan.Insert:         "insert",
	walchan.Update:         "update",
	walchan.Delete:         "delete",
	walchan.Truncate:       "truncate",
	walchan.LogicalMessage: "logical message",
	walchan.Raw:            "raw message",
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
