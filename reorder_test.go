package walchan_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// A log of concurrent sessions with nested savepoints, rollbacks and prepared transactions, and a model of how a server sends
// it: when it runs out of memory, which is at any time, it sends what it has of some transaction.

// record is a record of the log.
type record struct {
	at, end walchan.LSN
	op      op
	xid     uint32   // of the transaction
	subxid  uint32   // change: of the savepoint, or xid
	subxids []uint32 // rollback: those within xid that are rolled back
	table   int      // change, alter
	version int      // change: how the table was then
	value   string   // change, message
}

type op int

const (
	opChange op = iota
	opMessage
	opAlter
	opRollbackTo
	opRollback
	opCommit
	opPrepare
	opCommitPrepared
	opRollbackPrepared
)

// writer writes a log.
type writer struct {
	rnd      *rand.Rand
	log      []record
	next     walchan.LSN
	xid      uint32
	values   int
	versions [2]int
}

// session is a session in a transaction.
type session struct {
	stack    []*savepoint // the first is the transaction
	prepared bool
}

type savepoint struct {
	xid      uint32   // 0: nothing was written yet
	released []uint32 // XIDs within it
}

func (w *writer) write(r record) {
	r.at = w.next
	r.end = r.at + walchan.LSN(8*(1+w.rnd.IntN(10)))
	w.next = r.end
	w.log = append(w.log, r)
}

func (s *session) xid() uint32 { return s.stack[0].xid }

func (w *writer) change(s *session) {
	for _, p := range s.stack { // the outer ones get their XIDs first
		if p.xid == 0 {
			w.xid++
			p.xid = w.xid
		}
	}
	w.values++
	table := w.rnd.IntN(len(w.versions))
	w.write(record{op: opChange, xid: s.xid(), subxid: s.stack[len(s.stack)-1].xid, table: table, version: w.versions[table],
		value: fmt.Sprint(w.values)})
}

// leave ends the innermost savepoint.
func (w *writer) leave(s *session, release bool) {
	n := len(s.stack) - 1
	p := s.stack[n]
	s.stack = s.stack[:n]
	all := append(p.released, p.xid)
	if p.xid == 0 {
		all = p.released
	}
	if release {
		s.stack[n-1].released = append(s.stack[n-1].released, all...)
		return
	}
	// Those within come first, in order (xactGetCommittedChildren, DecodeAbort).
	slices.Sort(p.released)
	if len(all) > 0 {
		w.write(record{op: opRollbackTo, xid: s.xid(), subxids: append(p.released, p.xid)})
	}
}

// step does something in a session. It returns false when its transaction is over.
func (w *writer) step(s *session) bool {
	n := w.rnd.IntN(100)
	switch {
	case s.prepared:
		if n < 85 {
			return true
		}
		w.write(record{op: opCommitPrepared + op(n%2), xid: s.xid()})
		return false
	case n < 60:
		w.change(s)
	case n < 63:
		w.values++
		w.write(record{op: opMessage, value: fmt.Sprint(w.values)})
	case n < 66:
		table := w.rnd.IntN(len(w.versions))
		w.versions[table]++
		w.write(record{op: opAlter, table: table})
	case n < 77 && len(s.stack) < 4:
		s.stack = append(s.stack, &savepoint{})
	case n < 90 && len(s.stack) > 1:
		w.leave(s, n%2 == 0)
	case n >= 96 && s.xid() != 0:
		for len(s.stack) > 1 {
			w.leave(s, true)
		}
		switch n {
		case 96:
			w.write(record{op: opRollback, xid: s.xid(), subxids: s.stack[0].released})
		case 97:
			w.write(record{op: opPrepare, xid: s.xid()})
			s.prepared = true
			return true
		default:
			w.write(record{op: opCommit, xid: s.xid()})
		}
		return false
	}
	return true
}

func writeLog(rnd *rand.Rand) []record {
	w := &writer{rnd: rnd, next: 0x1000, xid: 700, versions: [2]int{1, 1}}
	var sessions [4]*session
	for len(w.log) < 300 {
		i := rnd.IntN(len(sessions))
		if sessions[i] == nil {
			sessions[i] = &session{stack: []*savepoint{{}}}
		}
		if !w.step(sessions[i]) {
			sessions[i] = nil
		}
	}
	return w.log
}

func gid(xid uint32) string { return fmt.Sprintf("g%d", xid) }

// wanted is what a stream from a position on shall deliver: the naive way.
func wanted(log []record, from walchan.LSN, twoPhase bool) (want []string) {
	rows, prepared := map[uint32][]record{}, map[uint32]walchan.LSN{}
	deliver := func(xid uint32, prefix string) {
		for _, r := range rows[xid] {
			want = append(want, fmt.Sprintf("%s%d:%s", prefix, xid, r.value))
		}
	}
	for _, r := range log {
		switch r.op {
		case opChange:
			rows[r.xid] = append(rows[r.xid], r)
		case opMessage:
			if r.end > from {
				want = append(want, "message "+r.value)
			}
		case opRollbackTo:
			rows[r.xid] = slices.DeleteFunc(rows[r.xid], func(c record) bool { return slices.Contains(r.subxids, c.subxid) })
		case opRollback:
			delete(rows, r.xid)
		case opPrepare:
			prepared[r.xid] = r.at
			if twoPhase && r.at >= from {
				deliver(r.xid, gid(r.xid)+" ")
			}
		case opCommit:
			if r.at >= from {
				deliver(r.xid, "")
			}
		case opCommitPrepared, opRollbackPrepared:
			late := prepared[r.xid] < from
			switch {
			case r.at < from || !twoPhase && r.op == opRollbackPrepared:
			case !twoPhase:
				deliver(r.xid, "")
			case r.op == opRollbackPrepared:
				want = append(want, gid(r.xid)+" rolled back")
			default:
				if late {
					deliver(r.xid, gid(r.xid)+" ")
				}
				want = append(want, gid(r.xid)+" committed")
			}
		}
	}
	return want
}

// decoding is a server that decodes the log for one connection (src/backend/replication/logical/reorderbuffer.c,
// src/backend/replication/pgoutput/pgoutput.c).
type decoding struct {
	rnd       *rand.Rand
	streaming string // off, on, parallel
	twoPhase  bool
	since     walchan.LSN // two-phase was switched on there
	from      walchan.LSN

	frames    []fakewal.Frame // one without payload is a keepalive
	txs       map[uint32]*reordered
	described map[int]int // versions of the tables, as they were sent to all
	versions  map[int]int
}

// reordered is a transaction in the server's reorder buffer.
type reordered struct {
	xid       uint32
	changes   []record // not yet sent
	streamed  map[uint32]bool
	described map[int]int // versions of the tables, as they were sent in its blocks

	prepareAt, prepareEnd walchan.LSN
}

func (d *decoding) send(at walchan.LSN, payload []byte) {
	d.frames = append(d.frames, fakewal.Frame{Start: at, End: at, Payload: payload})
}

func (d *decoding) run(log []record) []fakewal.Frame {
	d.txs, d.described, d.versions = map[uint32]*reordered{}, map[int]int{}, map[int]int{0: 1, 1: 1}
	for _, r := range log {
		d.decode(r)
		if d.streaming != "off" && r.at >= d.from && d.rnd.IntN(4) == 0 {
			d.evict(r.end)
		}
		if d.rnd.IntN(5) == 0 {
			d.send(r.end, nil)
		}
	}
	d.send(log[len(log)-1].end, nil)
	return d.frames
}

// evict sends what there is of one of the transactions.
func (d *decoding) evict(at walchan.LSN) {
	var all []*reordered
	for _, t := range d.txs {
		if len(t.changes) > 0 {
			all = append(all, t)
		}
	}
	if len(all) > 0 {
		slices.SortFunc(all, func(a, b *reordered) int { return int(a.xid) - int(b.xid) })
		d.block(all[d.rnd.IntN(len(all))], at)
	}
}

func (d *decoding) block(t *reordered, at walchan.LSN) {
	d.send(at, fakewal.StreamStart(t.xid, len(t.streamed) == 0))
	t.streamed[t.xid] = true
	for _, c := range t.changes {
		d.change(c, t.described, func(b []byte) []byte { return fakewal.InStream(c.subxid, b) })
		t.streamed[c.subxid] = true
	}
	d.send(at, fakewal.StreamStop())
	d.invalidate(t.changes)
	t.changes = nil
}

func (d *decoding) change(c record, described map[int]int, form func([]byte) []byte) {
	oid, column := uint32(16400+c.table), fmt.Sprintf("v%d", c.version)
	if described[c.table] != c.version {
		described[c.table] = c.version
		rel := fakewal.Relation{OID: oid, Schema: "public", Name: "t", Columns: []fakewal.Column{{Name: column, Key: true, Mod: -1}}}
		d.send(0, form(rel.Encode()))
	}
	d.send(c.at, form(fakewal.Insert(oid, c.value+"@"+column)))
}

// invalidate forgets what was sent of the tables of which older versions were needed.
func (d *decoding) invalidate(changes []record) {
	for _, c := range changes {
		if c.version != d.versions[c.table] {
			d.forget(c.table)
		}
	}
}

func (d *decoding) forget(table int) {
	delete(d.described, table)
	for _, t := range d.txs {
		delete(t.described, table)
	}
}

func (d *decoding) decode(r record) {
	t := d.txs[r.xid]
	if t == nil {
		t = &reordered{xid: r.xid, streamed: map[uint32]bool{}, described: map[int]int{}}
		if r.op == opChange {
			d.txs[r.xid] = t
		}
	}
	at := time.Unix(1_700_000_000, 0)
	switch r.op {
	case opChange:
		t.changes = append(t.changes, r)
	case opMessage:
		if r.end > d.from {
			d.send(r.end, fakewal.Message(false, r.end, "p", []byte(r.value)))
		}
	case opAlter:
		d.versions[r.table]++
		d.forget(r.table)
	case opRollbackTo, opRollback:
		for _, x := range r.subxids {
			d.abort(t, x, r.at)
		}
		if r.op == opRollback {
			d.abort(t, r.xid, r.at)
			delete(d.txs, r.xid)
		}
	case opPrepare:
		t.prepareAt, t.prepareEnd = r.at, r.end
		if d.twoPhase && r.at >= d.from { // else it is acknowledged, or late; its changes may still be sent in blocks
			d.whole(t, fakewal.BeginPrepare(r.at, r.end, at, r.xid, gid(r.xid)), fakewal.Prepare(r.at, r.end, at, r.xid, gid(r.xid)),
				fakewal.StreamPrepare(r.at, r.end, at, r.xid, gid(r.xid)), r.end)
		}
	case opCommit:
		if r.at >= d.from {
			d.commit(t, r)
		}
		delete(d.txs, r.xid)
	case opCommitPrepared:
		switch {
		case r.at < d.from:
		case !d.twoPhase:
			d.commit(t, r)
		default:
			if t.prepareAt < d.since {
				d.whole(t, fakewal.BeginPrepare(t.prepareAt, t.prepareEnd, at, r.xid, gid(r.xid)),
					fakewal.Prepare(t.prepareAt, t.prepareEnd, at, r.xid, gid(r.xid)),
					fakewal.StreamPrepare(t.prepareAt, t.prepareEnd, at, r.xid, gid(r.xid)), t.prepareEnd)
			}
			d.send(r.end, fakewal.CommitPrepared(r.at, r.end, at, r.xid, gid(r.xid)))
		}
		delete(d.txs, r.xid)
	case opRollbackPrepared:
		if d.twoPhase && r.at >= d.from {
			d.send(r.end, fakewal.RollbackPrepared(t.prepareEnd, r.end, at, at, r.xid, gid(r.xid)))
		} else if len(t.streamed) > 0 {
			d.abort(t, r.xid, r.at)
		}
		delete(d.txs, r.xid)
	}
}

func (d *decoding) abort(t *reordered, subxid uint32, at walchan.LSN) {
	t.changes = slices.DeleteFunc(t.changes, func(c record) bool { return c.subxid == subxid })
	switch {
	case !t.streamed[subxid]:
		return
	case d.streaming == "parallel":
		d.send(at, fakewal.StreamAbortParallel(t.xid, subxid, at, time.Unix(1_700_000_000, 0)))
	default:
		d.send(at, fakewal.StreamAbort(t.xid, subxid))
	}
	clear(t.described)
}

func (d *decoding) commit(t *reordered, r record) {
	at := time.Unix(1_700_000_000, 0)
	if len(t.streamed) == 0 && len(t.changes) == 0 {
		return
	}
	d.whole(t, fakewal.Begin(r.at, at, r.xid), fakewal.Commit(r.at, r.end, at), fakewal.StreamCommit(r.xid, r.at, r.end, at), r.end)
	for table, version := range t.described {
		d.described[table] = version
	}
}

// whole sends the rest of a transaction and its end, or all of it if nothing was sent yet.
func (d *decoding) whole(t *reordered, begin, end, streamEnd []byte, at walchan.LSN) {
	if len(t.streamed) > 0 {
		if len(t.changes) > 0 {
			d.block(t, at)
		}
		d.send(at, streamEnd)
		return
	}
	d.send(at, begin)
	for _, c := range t.changes {
		d.change(c, d.described, func(b []byte) []byte { return b })
	}
	d.send(at, end)
	d.invalidate(t.changes)
	t.changes = nil
}

// described says what a message is, as wanted does. "" for what is not in there.
func described(t *testing.T, m walchan.Message) string {
	t.Helper()
	prefix := ""
	if m.Tx != nil && m.Tx.GID != "" {
		prefix = m.Tx.GID + " "
	}
	switch m.Kind {
	case walchan.Insert:
		value, version, _ := strings.Cut(m.New().Text(0), "@")
		if name := m.Relation.Columns[0].Name; name != version {
			t.Errorf("%s: the row is of version %s of the table, which is described as of %s", value, version, name)
		}
		return fmt.Sprintf("%s%d:%s", prefix, m.Tx.XID, value)
	case walchan.LogicalMessage:
		return "message " + m.Payload()
	case walchan.CommitPrepared:
		return prefix + "committed"
	case walchan.RollbackPrepared:
		return prefix + "rolled back"
	}
	return ""
}

// enclosed checks that with WithTransactions each transaction has its Begin and its end.
type enclosed struct{ open, prepared walchan.Tx }

func (e *enclosed) take(t *testing.T, m walchan.Message) {
	t.Helper()
	var none, tx walchan.Tx
	if m.Tx != nil {
		tx = *m.Tx
	}
	ok := true
	switch m.Kind {
	case walchan.Begin:
		ok = e.open == none
		e.open = tx
	case walchan.Commit:
		ok = e.open == tx && tx.GID == ""
		e.open = none
	case walchan.Prepare:
		ok = e.open == tx && tx.GID != ""
		e.open, e.prepared = none, tx
	case walchan.Insert:
		ok = e.open == tx
	case walchan.CommitPrepared:
		ok = e.open == none && (m.Ordinal <= 3 || e.prepared == tx) // up to 3 there are no changes
	default:
		ok = e.open == none
	}
	if !ok {
		t.Errorf("%v does not belong there", m)
	}
}

func TestTransactionsInProgressAgainstModel(t *testing.T) {
	for seed := range uint64(90) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		log := writeLog(rnd)
		// The slot begins somewhere, and two-phase with it.
		from := log[rnd.IntN(len(log)/2)].at
		streaming := []string{"off", "on", "parallel"}[seed%3]
		twoPhase, transactions := seed/3%2 == 1, seed/6%2 == 1
		want := wanted(log, from, twoPhase)

		script := func(stream uint64, whole bool) fakewal.Script {
			return func(c *fakewal.Conn) error {
				rnd := rand.New(rand.NewPCG(seed, 3+stream))
				if c.Start.Options["proto_version"] != protocolVersion(streaming, twoPhase) {
					t.Errorf("options %v", c.Start.Options)
				}
				d := &decoding{rnd: rnd, streaming: streaming, twoPhase: twoPhase, since: from, from: c.Start.From}
				frames := d.run(log)
				if !whole {
					frames = frames[:rnd.IntN(len(frames))]
				}
				for _, f := range frames {
					var err error
					if f.Payload == nil {
						err = c.Keepalive(f.Start, false)
					} else {
						err = c.Play(f)
					}
					if err != nil {
						return err
					}
				}
				if whole {
					return nil
				}
				return errBreak(c)
			}
		}
		name := fmt.Sprintf("seed %d, streaming %s, two-phase %v, with transactions %v", seed, streaming, twoPhase, transactions)
		scripts := []fakewal.Script{script(1, false), script(2, false), script(3, false), script(4, true)}
		bubble(t, func(t *testing.T, srv *fakewal.Server) {
			srv.Update(func(s *fakewal.State) {
				s.Version = "16.14"
				s.Slots["p"].ConfirmedFlush = from
			})
			// With a small buffer and a consumer that pauses, connections break in the middle of transactions that are played, too.
			opts := []walchan.Option{walchan.WithBuffer(2, 1<<20), walchan.WithPluginOption("streaming", streaming)}
			if streaming == "on" {
				opts = append(opts[:1], walchan.WithStreaming())
			}
			if twoPhase {
				opts = append(opts, walchan.WithTwoPhase())
			}
			if transactions {
				opts = append(opts, walchan.WithTransactions())
			}
			s := subscribeTo(t, srv, opts...)
			var got []string
			var held []walchan.Message
			var last walchan.Position
			var order enclosed
			for silent := false; !silent; {
				select {
				case m, ok := <-s.C():
					if !ok {
						t.Fatalf("%s: closed: %v", name, s.Err())
					}
					if p, ok := m.Position(); !ok || p.Compare(last) <= 0 || m.Tx != nil && m.Tx.Redelivered {
						t.Errorf("%s: %v behind %v", name, m, last)
					} else {
						last = p
					}
					if transactions {
						order.take(t, m)
					}
					if what := described(t, m); what != "" {
						got = append(got, what)
					}
					if held = append(held, m); rnd.IntN(3) == 0 {
						i := rnd.IntN(len(held))
						s.Ack(held[i])
						held = slices.Delete(held, i, i+1)
					}
					if rnd.IntN(50) == 0 {
						s.AckThrough(m)
						held = nil
					}
					if rnd.IntN(20) == 0 {
						time.Sleep(20 * time.Second)
					}
				case <-time.After(time.Hour):
					silent = true
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s", name, difference(got, want))
			}
			for _, m := range held {
				s.Ack(m)
			}
			if st := s.Stats(); st.Reconnects < 1 || st.Spooled < 0 {
				t.Errorf("%s: %+v", name, st)
			}
			finish(t, s)
			if slot, _ := srv.Slot("p"); slot.ConfirmedFlush != log[len(log)-1].end {
				t.Errorf("%s: confirmed %s, the log ends at %s", name, slot.ConfirmedFlush, log[len(log)-1].end)
			}
		}, scripts...)
		if t.Failed() {
			return
		}
	}
}

func protocolVersion(streaming string, twoPhase bool) string {
	switch {
	case streaming == "parallel":
		return "4"
	case twoPhase:
		return "3"
	case streaming == "on":
		return "2"
	}
	return "1"
}

// difference says where two lists differ.
func difference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("%d came, %d wanted; from the %d-th on\ngot  %v\nwant %v", len(got), len(want), i,
				got[min(i, len(got)):min(i+10, len(got))], want[min(i, len(want)):min(i+10, len(want))])
		}
	}
	return "no difference"
}
