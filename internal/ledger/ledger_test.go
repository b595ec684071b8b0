package ledger

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/wal"
)

// model is the ledger as simple as it can be said: a bit a message, a list of marks, and no thought of speed.
type model struct {
	acked     []bool
	at        []time.Time // when each was delivered
	marks     []mark
	confirmed wal.LSN

	storing bool
	stored  int // number of the newest message that was acknowledged and not skipped, plus 1
}

// oldest returns the number of the oldest unacknowledged message; len(acked): there is none.
func (m *model) oldest() int {
	if i := slices.Index(m.acked, false); i >= 0 {
		return i
	}
	return len(m.acked)
}

// advance: confirmed is the highest mark before the oldest unacknowledged message, and before a message that is stored.
func (m *model) advance() wal.LSN {
	oldest := uint64(m.oldest())
	var waiting, rest []mark
	for _, k := range m.marks {
		switch {
		case k.seq > oldest:
			rest = append(rest, k)
		case m.storing && k.seq > uint64(m.stored):
			if k.lsn > m.confirmed && (len(waiting) == 0 || k.lsn > waiting[0].lsn) {
				waiting = []mark{k} // the last one will do
			}
		default:
			m.confirmed = max(m.confirmed, k.lsn)
		}
	}
	if m.storing {
		m.marks = append(waiting, rest...)
	}
	return m.confirmed
}

func (m *model) backlog(now time.Time) Backlog {
	oldest := m.oldest()
	b := Backlog{Delivered: uint64(len(m.acked)), Confirmed: m.confirmed}
	for _, acked := range m.acked[oldest:] {
		b.Unacked += bit(!acked)
		b.Overtaken = b.Overtaken || acked
	}
	if b.Unacked == 0 {
		return b
	}
	b.OldestNumber = uint64(oldest)
	b.Age = now.Sub(m.at[oldest])
	place := uint64(0)
	// Of the marks behind it the first place that says something new; of several at one place the highest.
	high := m.confirmed
	for _, k := range m.marks {
		if k.seq > uint64(oldest) && k.lsn > high && (b.Oldest == 0 || k.seq == place) {
			b.Oldest, place = k.lsn, k.seq
		}
		high = max(high, k.lsn)
	}
	return b
}

// pair is a ledger and its model, which everything is done to alike.
type pair struct {
	*Ledger
	model    model
	receipts []Receipt
	now      time.Time
	lsn      wal.LSN // of the last mark
}

func newPair(start wal.LSN) *pair { return newPairOf(start, false) }

func newPairOf(start wal.LSN, storing bool) *pair {
	p := &pair{Ledger: New(start, func() {}), model: model{confirmed: start, storing: storing}, now: time.UnixMilli(1 << 42), lsn: start}
	p.Storing = storing
	return p
}

func (p *pair) deliver(n int) {
	for range n {
		p.receipts = append(p.receipts, p.Ledger.Next())
		p.Ledger.Delivered()
		p.model.acked = append(p.model.acked, false)
		p.model.at = append(p.model.at, p.now)
	}
}

func (p *pair) markAt(lsn wal.LSN) {
	if p.Storing {
		p.Ledger.MarkBefore(lsn, &resume.Place{})
	} else {
		p.Ledger.Mark(lsn)
	}
	p.model.marks = append(p.model.marks, mark{uint64(len(p.model.acked)), lsn})
	p.lsn = max(p.lsn, lsn)
}

func (p *pair) ack(i int) {
	p.receipts[i].Ack()
	if !p.model.acked[i] {
		p.model.stored = max(p.model.stored, i+1)
	}
	p.model.acked[i] = true
}

func (p *pair) skip(i int) {
	p.receipts[i].Skip()
	p.model.acked[i] = true
}

func (p *pair) ackThrough(i int) {
	p.receipts[i].AckThrough()
	for j := range i + 1 {
		p.model.acked[j] = true
	}
	p.model.stored = max(p.model.stored, i+1)
}

func (p *pair) pass(d time.Duration) {
	p.now = p.now.Add(d)
	p.Tick(p.now)
}

// check compares the two.
func (p *pair) check(t *testing.T) {
	t.Helper()
	if got, want := p.Ledger.Advance(), p.model.advance(); got != want {
		t.Fatalf("confirmed is %s, want %s", got, want)
	}
	if got, want := p.Outstanding(), uint64(len(p.model.acked)-p.model.oldest()); got != want {
		t.Fatalf("%d are outstanding, want %d", got, want)
	}
	if got, want := p.Ledger.Look(p.now), p.model.backlog(p.now); got != want {
		t.Fatalf("backlog is\n%+v, want\n%+v", got, want)
	}
}

func TestLedgerIsItsModel(t *testing.T) {
	r := pgtest.Seeded(t)
	for i := range 40 {
		p := newPairOf(wal.LSN(r.IntN(2)*1000), i%2 == 1)
		p.pass(0)
		// Some runs of few messages, some over several chunks.
		burst := []int{3, 100, 1500}[r.IntN(3)]
		for range 300 {
			p.step(r, burst)
			if r.IntN(4) == 0 {
				p.check(t)
			}
		}
		p.check(t)
		if n := len(p.receipts); n > 0 {
			p.ackThrough(n - 1)
			p.check(t)
		}
	}
}

// step does one thing at random.
func (p *pair) step(r *rand.Rand, burst int) {
	n := len(p.receipts)
	switch k := r.IntN(15); {
	case k < 3:
		p.deliver(1 + r.IntN(burst))
	case k < 5:
		p.markAt(p.lsn + wal.LSN(r.IntN(30)) - min(p.lsn, 10)) // also one that does not go forward
	case k == 5:
		p.pass(time.Duration(r.IntN(5000)) * time.Millisecond)
	case n == 0:
	case k == 6:
		p.ackThrough(max(n-1-r.IntN(2*burst), 0))
	case k == 7:
		p.ack(min(p.model.oldest(), n-1))
	case k == 8: // a run, as a consumer that works in order has it
		from := p.model.oldest()
		for i := from; i < min(from+r.IntN(2*burst), n); i++ {
			p.ack(i)
		}
	case k > 11: // without checkpoints that is the same
		from := p.model.oldest()
		for i := from; i < min(from+r.IntN(2*burst), n); i++ {
			p.skip(i)
		}
		p.skip(r.IntN(n))
	default: // anywhere, perhaps again
		for range r.IntN(burst) {
			p.ack(r.IntN(n))
		}
	}
}

func TestLedgerConfirmsNothingFromAMarkOnTheWayBack(t *testing.T) {
	p := newPair(100)
	for _, lsn := range []wal.LSN{90, 100, 200, 150, 200} {
		p.deliver(1)
		p.markAt(lsn)
		p.ack(len(p.receipts) - 1)
		p.check(t)
	}
	if got := p.Ledger.Advance(); got != 200 {
		t.Errorf("confirmed is %s, want 0/C8", got)
	}
}

func TestLedgerAckIsIdempotent(t *testing.T) {
	p := newPair(0)
	p.deliver(2)
	p.markAt(10)
	for range 3 {
		p.ack(0)
		p.check(t)
	}
	p.ackThrough(0)
	p.check(t)
	p.ack(1)
	p.check(t)
}

func TestLedgerCountsWhatComesAfterItsEnd(t *testing.T) {
	p := newPair(0)
	p.deliver(5)
	p.markAt(10)
	p.ack(0)
	p.Close()
	p.receipts[0].Ack() // was acknowledged in time
	p.receipts[1].Ack()
	p.receipts[1].Ack()
	p.receipts[4].AckThrough()
	if got := p.Late.Load(); got != 2 {
		t.Errorf("%d late acknowledgements, want 2", got)
	}
}

// An acknowledgement counts as soon as it was made, and no message is taken as acknowledged before.
func TestLedgerWithConcurrentAckers(t *testing.T) {
	const ackers, messages = 8, 200_000
	l := New(0, func() {})
	began := make([]atomic.Bool, messages) // Ack was called
	work := make(chan int, 4096)
	receipts := make([]Receipt, messages)
	var wg sync.WaitGroup
	for n := range ackers {
		wg.Go(func() { ackAtRandom(work, receipts, began, rand.New(rand.NewPCG(uint64(n), 1))) })
	}
	var marks []mark
	checked := uint64(0) // all messages below had begun
	advance := func() wal.LSN {
		confirmed := l.Advance()
		for len(marks) > 0 && marks[0].lsn <= confirmed {
			for ; checked < marks[0].seq; checked++ {
				if !began[checked].Load() {
					t.Fatalf("%s is confirmed, and message %d not acknowledged", confirmed, checked)
				}
			}
			marks = marks[1:]
		}
		return confirmed
	}
	for i := range messages {
		receipts[i] = l.Next()
		l.Delivered()
		work <- i
		if i%7 == 0 {
			l.Mark(wal.LSN(i + 1))
			marks = append(marks, mark{uint64(i + 1), wal.LSN(i + 1)})
		}
		if i%100 == 0 {
			advance()
			l.Look(time.Now()) // as Stats does
		}
	}
	l.Mark(messages + 1)
	close(work)
	wg.Wait()
	if got := advance(); got != messages+1 || l.Outstanding() != 0 {
		t.Errorf("at the end %s is confirmed and %d outstanding", got, l.Outstanding())
	}
}

// ackAtRandom holds back a hundred messages and acknowledges one of them whenever another comes.
func ackAtRandom(work <-chan int, receipts []Receipt, began []atomic.Bool, r *rand.Rand) {
	var held []int
	ack := func() {
		n := r.IntN(len(held))
		i := held[n]
		held[n] = held[len(held)-1]
		held = held[:len(held)-1]
		began[i].Store(true)
		receipts[i].Ack()
	}
	for i := range work {
		if held = append(held, i); len(held) > 100 {
			ack()
		}
	}
	for len(held) > 0 {
		ack()
	}
}

// The same without the sleep, and therefore a hundred times as often: an acknowledgement that comes while the owner begins to
// watch for it is seen by the owner, or wakes it.
func TestLedgerWatchesOrHasSeen(t *testing.T) {
	for _, ack := range []func(Receipt){Receipt.Ack, Receipt.AckThrough} {
		var woken, turn, done atomic.Int64
		l := New(0, func() { woken.Add(1) })
		var receipt Receipt // of this turn
		var acker sync.WaitGroup
		acker.Go(func() {
			r := rand.New(rand.NewPCG(1, 1))
			for round := int64(1); awaitTurn(&turn, round); round++ {
				dawdle(r)
				ack(receipt)
				done.Store(round)
			}
		})
		r := rand.New(rand.NewPCG(1, 2))
		end := time.Now().Add(time.Second)
		var round int64
		for round = int64(1); time.Now().Before(end) && !t.Failed(); round++ {
			receipt = l.Next()
			l.Delivered()
			l.Advance()
			l.watch.Store(0) // as the first time
			before := woken.Load()
			turn.Store(round)
			dawdle(r)
			watches := l.WatchFor(Oldest)
			awaitTurn(&done, round)
			if watches && woken.Load() == before {
				t.Errorf("round %d: the owner would sleep, and nobody has woken it", round)
			}
		}
		t.Logf("%d rounds", round)
		turn.Store(-1)
		acker.Wait()
	}
}

// awaitTurn spins until n is reached. It returns false at the end.
func awaitTurn(turn *atomic.Int64, n int64) bool {
	for spins := 1; ; spins++ {
		switch at := turn.Load(); {
		case at == n:
			return true
		case at < 0:
			return false
		case spins%1000 == 0:
			runtime.Gosched()
		}
	}
}

// dawdle takes up to some hundred nanoseconds: about as long as it takes to fall asleep.
func dawdle(r *rand.Rand) {
	for range r.IntN(100) {
		nothingAtAll()
	}
}

//go:noinline
func nothingAtAll() {}

func ackAll(some []Receipt, cumulative bool) {
	if cumulative {
		some[len(some)-1].AckThrough()
		return
	}
	for _, r := range some {
		r.Ack()
	}
}

// A consumer that acknowledges in order wakes the owner once a transaction, not once a message.
func TestLedgerWakesOnceATransaction(t *testing.T) {
	woken := 0
	l := New(0, func() { woken++ })
	for tx := range 10 {
		var some []Receipt
		for range 100 {
			some = append(some, l.Next())
			l.Delivered()
		}
		l.Mark(wal.LSN(tx + 1))
		l.Advance()
		if !l.WatchFor(NextMark) {
			t.Fatal("nothing to watch for")
		}
		ackAll(some, false)
		if woken != tx+1 {
			t.Fatalf("woken %d times by %d transactions", woken, tx+1)
		}
	}
}

// What lies before the oldest unacknowledged message is let go, also where a consumer keeps a message for ever.
func TestLedgerLetsGoOfWhatIsAcknowledged(t *testing.T) {
	const chunks = 50
	l := New(0, func() {})
	var collected atomic.Int32
	var kept Receipt
	for n := range chunks {
		for i := range chunkLen {
			r := l.Next()
			l.Delivered()
			if i == 0 {
				runtime.AddCleanup(r.c, func(struct{}) { collected.Add(1) }, struct{}{})
			}
			if n == 0 && i == 10 {
				kept = r
			}
			r.Ack()
		}
		l.Mark(wal.LSN(n + 1))
	}
	l.Advance()
	for deadline := time.Now().Add(10 * time.Second); collected.Load() < chunks-2; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d chunks are collected, want all but the newest and the one whose receipt is kept", collected.Load(), chunks)
		}
	}
	kept.Ack()
	runtime.KeepAlive(l)
}

func TestLedgerLetsGoOfReachedMarks(t *testing.T) {
	p := newPair(0)
	for i := range 100_000 {
		p.deliver(1)
		p.Ledger.Mark(wal.LSN(i + 1))
	}
	p.receipts[len(p.receipts)-2].AckThrough()
	if got := p.Ledger.Advance(); got != 99_999 {
		t.Fatalf("confirmed is %d", got)
	}
	if c := cap(p.Ledger.marks.items); c > 2*short {
		t.Errorf("one mark takes the place of %d", c)
	}
}

// A mark that is made again, at the same place, says what the later one says.
func TestLedgerMarkMadeAgain(t *testing.T) {
	p := newPair(0)
	p.Ledger.Storing = true
	p.deliver(1)
	for _, from := range []wal.LSN{1, 2} {
		p.Ledger.MarkBefore(10, &resume.Place{Point: resume.Point{Through: 12, From: from}})
	}
	p.receipts[0].Ack()
	if lsn := p.Ledger.Advance(); lsn != 10 || p.Ledger.Checkpoint().From != 2 {
		t.Errorf("confirmed is %d, and the checkpoint %+v", lsn, p.Ledger.Checkpoint())
	}
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
