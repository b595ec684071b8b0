package main

import (
	"fmt"
	"hash/maphash"
)

// A seen message is one that a consumer has received.
type seen struct {
	position string // Message.Position; "" where there is none
	content  string
	start    bool // not a message: the consumer begins, once more
}

// A verdict says what is wrong with what a consumer has received.
type verdict struct {
	Delivered  int // messages, also those that came again
	Lost       int // never came
	Repeated   int // came twice in the life of one Stream
	Reordered  int // came, for the first time or again, behind one that it should have come before
	Invented   int // nobody wrote them
	Misplaced  int // same change, other Position; or a Position that does not ascend
	Again      int // came again in a later life: that is allowed
	Late       int // Kafka: how often something of a killed process came behind what the next one wrote
	Lives      int
	Complaints []string // some of them
}

func (v *verdict) ok() bool {
	return v.Lost+v.Repeated+v.Reordered+v.Invented+v.Misplaced == 0
}

// add adds up.
func (v *verdict) add(w verdict) {
	v.Delivered += w.Delivered
	v.Lost += w.Lost
	v.Repeated += w.Repeated
	v.Reordered += w.Reordered
	v.Invented += w.Invented
	v.Misplaced += w.Misplaced
	v.Again += w.Again
	v.Late += w.Late
	v.Complaints = append(v.Complaints, w.Complaints...)
}

func (v *verdict) complain(count *int, format string, args ...any) {
	if *count++; *count <= 10 {
		v.Complaints = append(v.Complaints, fmt.Sprintf(format, args...))
	}
}

// due is what a consumer should have.
type due struct {
	*reference
	base    rowStates // the rows before
	partial bool      // the end may be missing, because the server is dead
}

// comparison compares what a consumer received with what it should have.
type comparison struct {
	verdict
	once      bool // nothing may be repeated, even in a later life
	want      []string
	index     map[uint64]int // by hash of the content
	positions []string       // of each of want, as first seen
	life      []int          // in which each of want was last seen; 0: not yet
	last      int            // index of the last one in this life
	high      int            // index of the one that should come for the first time next
}

var seed = maphash.MakeSeed()

func newComparison(want []string) *comparison {
	c := &comparison{want: want, index: make(map[uint64]int, len(want)), positions: make([]string, len(want)), life: make([]int, len(want))}
	for i, w := range want {
		h := maphash.String(seed, w)
		if j, ok := c.index[h]; ok {
			panic(fmt.Sprintf("two changes that are alike: %q, %q", want[j], w))
		}
		c.index[h] = i
	}
	return c
}

func (c *comparison) take(s seen) {
	if s.start {
		c.Lives++
		c.last = -1
		return
	}
	c.Delivered++
	i, ok := c.index[maphash.String(seed, s.content)]
	if !ok {
		c.complain(&c.Invented, "invented: %s %s", s.position, s.content)
		return
	}
	switch was := c.life[i]; {
	case was == c.Lives:
		c.complain(&c.Repeated, "repeated: %s %s", s.position, s.content)
	case i < c.last, was == 0 && i < c.high:
		c.complain(&c.Reordered, "reordered: %s %s, behind %s", s.position, s.content, c.want[max(c.last, c.high-1)])
	case was != 0 && c.once:
		c.complain(&c.Repeated, "repeated in a later life: %s %s", s.position, s.content)
	case was != 0:
		c.Again++
	}
	if c.last >= 0 {
		for j := c.last + 1; j < i; j++ {
			if c.life[j] != 0 { // else it is lost for good, or reordered
				c.complain(&c.Lost, "left out the second time: %s", c.want[j])
			}
		}
	}
	switch {
	case c.life[i] == 0:
		c.positions[i] = s.position
	case c.positions[i] != s.position:
		c.complain(&c.Misplaced, "misplaced: %s, which was %s: %s", s.position, c.positions[i], s.content)
	}
	c.life[i], c.last, c.high = c.Lives, max(c.last, i), max(c.high, i+1)
}

// result is the verdict, after the last call of take. With partial nothing is missing after the last one.
func (c *comparison) result(partial bool) verdict {
	for i, life := range c.life {
		if life == 0 && (i < c.high || !partial) {
			c.complain(&c.Lost, "lost: %s", c.want[i])
		}
	}
	return c.verdict
}

// ascending checks that the positions are a key that ascends.
func (c *comparison) ascending() {
	last := place{}
	for i, s := range c.positions {
		if s == "" {
			continue
		}
		p, err := parsePlace(s)
		if err != nil || !last.before(p) {
			c.complain(&c.Misplaced, "misplaced: %s behind %v: %s (%v)", s, last, c.want[i], err)
		}
		last = p
	}
}
