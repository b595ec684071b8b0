package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walchan/walchan"
)

// A consumer receives from a stream in this process, writes down what it receives, and acknowledges it, in ever changing
// ways.
type consumer struct {
	name    string
	stream  *walchan.Stream
	cancel  context.CancelFunc // the stream's context
	journal *journal
	see     func(walchan.Message) seen
	reached *milestone
	rng     *rand.Rand
	calm    *atomic.Bool // no more being slow
	note    func(kind, what string)

	pile    []walchan.Receipt // received, not acknowledged
	give    chan []walchan.Receipt
	workers sync.WaitGroup
	again   atomic.Int64 // messages with Tx.Redelivered

	ending
}

// ending is how a consumer ends.
type ending struct {
	expected atomic.Bool   // it must refuse to go on
	ended    chan struct{} // closed when it has ended
	err      error         // why it has
}

// refusal waits for the end of a stream that must refuse, and returns the kind of its error.
func (c *consumer) refusal(ctx context.Context) (string, error) {
	select {
	case <-c.ended:
	case <-ctx.Done():
		return "", found("%s should refuse to go on, and does not: %w; %+v", c.name, ctx.Err(), c.stream.Stats())
	}
	kind := refusalOf(c.err)
	if kind == "" {
		return "", found("%s should refuse to go on, and has ended: %w", c.name, c.err)
	}
	return kind, nil
}

// A way to consume: it is given each message, and called with the zero Message now and then.
type way struct {
	name string
	take func(*consumer, walchan.Message)
}

var ways = []way{
	{"prompt", func(c *consumer, m walchan.Message) { c.stream.Ack(m) }},
	{"in workers, any order", (*consumer).toWorkers},
	{"in batches", (*consumer).inBatches},
	{"slowly", func(c *consumer, m walchan.Message) {
		if !c.calm.Load() {
			time.Sleep(time.Duration(c.rng.IntN(1000)) * time.Microsecond)
		}
		m.Receipt().Ack()
	}},
	{"late", func(c *consumer, m walchan.Message) {
		if c.pile = append(c.pile, m.Receipt()); len(c.pile) > 3000 {
			c.ackPile()
		}
	}},
	{"not at all", func(c *consumer, m walchan.Message) {
		if !c.calm.Load() {
			d := time.Duration(c.rng.IntN(6000)) * time.Millisecond
			c.note("consumer blocked", fmt.Sprintf("%s for %v", c.name, d))
			time.Sleep(d)
		}
		m.Receipt().Ack()
	}},
}

// run consumes until the stream ends.
func (c *consumer) run() error {
	c.give = make(chan []walchan.Receipt, 4)
	for i := range 3 {
		rng := rand.New(rand.NewPCG(c.rng.Uint64(), uint64(i)))
		c.workers.Go(func() { worker(c.give, rng) })
	}
	ended := make(chan struct{})
	var wrong error
	c.workers.Go(func() { wrong = watch(c.stream, ended) })
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	now, until := ways[0], time.Time{}
	for open := true; open; {
		var m walchan.Message
		select {
		case m, open = <-c.stream.C():
		case <-tick.C:
		}
		if m.Kind == 0 { // idle, or the end
			if time.Now().After(until) || !open {
				c.ackPile()
			}
		} else {
			c.receive(m)
			now.take(c, m)
		}
		if time.Now().After(until) {
			until = time.Now().Add(time.Duration(100+c.rng.IntN(3000)) * time.Millisecond)
			if next := ways[c.rng.IntN(len(ways))]; next.name != now.name {
				c.ackPile()
				now = next
			}
			if now.name == "not at all" {
				until = time.Time{} // once is enough
			}
		}
	}
	close(c.give)
	close(ended)
	c.workers.Wait()
	return errors.Join(c.journal.close(), wrong, c.stream.Err())
}

// watch looks at Stats, and flushes now and then, while all else goes on: it says what cannot be true.
func watch(s *walchan.Stream, ended <-chan struct{}) (wrong error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last walchan.Stats
	for n := 0; ; n++ {
		select {
		case <-ended:
			return wrong
		case <-tick.C:
		}
		now := s.Stats()
		if now.Delivered < last.Delivered || now.Acknowledged < last.Acknowledged && now.Reconnects == 0 || now.Reconnects < last.Reconnects ||
			now.Confirmed > now.Acknowledged || now.Unacked > now.Delivered {
			wrong = fmt.Errorf("stats were %+v, and then %+v", last, now)
		}
		last = now
		if n%100 == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			_ = s.Flush(ctx) // it waits where there is no connection
			cancel()
		}
	}
}

// settled waits until everything is acknowledged.
func (c *consumer) settled(ctx context.Context) error {
	for c.stream.Stats().Unacked > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not acknowledge: %+v", c.name, c.stream.Stats())
		}
		sleep(ctx, 10*time.Millisecond)
	}
	return nil
}

// receive writes a message down.
func (c *consumer) receive(m walchan.Message) {
	s := c.see(m)
	c.journal.add(s)
	if c.journal.buf.Len() > 1<<16 {
		_ = c.journal.flush() // said by close
	}
	if m.Tx != nil && m.Tx.Redelivered {
		c.again.Add(1)
	}
	c.reached.look(s.content)
}

func (c *consumer) ackPile() {
	c.rng.Shuffle(len(c.pile), func(i, j int) { c.pile[i], c.pile[j] = c.pile[j], c.pile[i] })
	for _, r := range c.pile {
		r.Ack()
	}
	c.pile = c.pile[:0]
}

func (c *consumer) toWorkers(m walchan.Message) {
	if c.pile = append(c.pile, m.Receipt()); len(c.pile) > c.rng.IntN(1000) {
		c.give <- c.pile
		c.pile = nil
	}
}

func (c *consumer) inBatches(m walchan.Message) {
	if c.pile = append(c.pile, m.Receipt()); len(c.pile) > c.rng.IntN(1000) {
		c.stream.AckThrough(m)
		c.pile = c.pile[:0]
	}
}

// worker acknowledges in an order of its own.
func worker(work <-chan []walchan.Receipt, rng *rand.Rand) {
	for batch := range work {
		rng.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		for _, r := range batch {
			if rng.IntN(200) == 0 {
				time.Sleep(time.Millisecond)
			}
			r.Ack()
		}
	}
}

// seeMessage is how a message of the publication is written down, seeRaw one of test_decoding.
func seeMessage(m walchan.Message) seen {
	p, _ := m.Position()
	return seen{position: p.String(), content: content(m)}
}

func seeRaw() func(walchan.Message) seen {
	xid := ""
	return func(m walchan.Message) seen {
		if rest, ok := strings.CutPrefix(m.Payload(), "BEGIN "); ok {
			xid = rest
		}
		return seen{content: payload(xid, m.Payload())}
	}
}

// A milestone says which row of the table marker a consumer has come to.
type milestone struct {
	mu      sync.Mutex
	at      int
	changed chan struct{}
}

func newMilestone() *milestone { return &milestone{changed: make(chan struct{})} }

// look recognises the row of a marker, in either plugin's writing.
func (m *milestone) look(content string) {
	if n, ok := markerIn(content); ok {
		m.reach(n)
	}
}

func markerIn(content string) (n int, ok bool) {
	for _, format := range []string{"public.marker id=%d", "public.marker: INSERT: id[integer]:%d"} {
		if i := strings.Index(content, "public.marker"); i >= 0 {
			if _, err := fmt.Sscanf(content[i:], format, &n); err == nil {
				return n, true
			}
		}
	}
	return 0, false
}

func (m *milestone) reach(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > m.at {
		m.at = n
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

// wait waits until the consumer has come to marker n.
func (m *milestone) wait(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		at, changed := m.at, m.changed
		m.mu.Unlock()
		if at >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("is at marker %d, not at %d", at, n)
		}
	}
}
