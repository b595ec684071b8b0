package feed

import (
	"bytes"
	"strconv"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
)

// Plugin is the feed of output plugins whose messages are handed over as they come.
//
// Of some plugins the ends of transactions are recognised. Then only ends are confirmed, and the server resumes exactly after the last one.
// It sends the same transactions in the same order as before, so what was delivered of each can be counted off. The position of a
// message does not help, because it is not even monotonic.
//
// Of other plugins the highest position of the acknowledged prefix is confirmed. That is safe, because transactions are sent in commit order
// and a change lies before its own commit. What was not confirmed is delivered again after a reconnect.
type Plugin struct {
	ends  ends
	until wal.LSN

	item     Item // scratch
	pending  bool // it is being delivered
	settling bool // and was the last of its transaction

	sent  []entry // delivered after the last confirmed end, the last one perhaps not complete
	again int     // how many of these the server has sent again, wholly: the index of the one it is sending
	now   entry   // the one it is sending, so far
	high  wal.LSN // of what was delivered
}

// NewPlugin returns the feed of a plugin that is given options.
func NewPlugin(plugin string, options map[string]string) *Plugin {
	return &Plugin{ends: endsOf(plugin, options)}
}

// Disconnected does nothing.
func (f *Plugin) Disconnected() {}

// TakeBack: the consumer has not got the item that was given last.
func (f *Plugin) TakeBack() { f.pending = false }

// Delivered is the highest position of what was delivered.
func (f *Plugin) Delivered() resume.Point { return resume.Point{Through: f.high, Message: f.high} }

// Held is 0.
func (f *Plugin) Held() int64 { return 0 }

// entry is a transaction, or a message outside of transactions.
type entry struct {
	end      wal.LSN // 0: not complete
	messages uint64
	hash     uint32
}

// ends says how a plugin's messages tell where transactions end.
type ends uint8

const (
	notTold ends = iota // it is not known
	byTestDecoding
	byWAL2JSON
)

func endsOf(plugin string, options map[string]string) ends {
	isOn := func(option string, unset bool) bool {
		on, err := strconv.ParseBool(options[option])
		return on || err != nil && unset
	}
	switch {
	case plugin == "test_decoding" && !isOn("stream-changes", false):
		return byTestDecoding
	case plugin == "wal2json" && options["format-version"] == "2" && isOn("include-transaction", true):
		return byWAL2JSON
	}
	return notTold
}

// isLast says whether a message is the last one of its transaction, or outside of transactions.
func (e ends) isLast(b []byte) bool {
	if e == byTestDecoding {
		// contrib/test_decoding/test_decoding.c. A change begins with "table", a transaction with "BEGIN".
		for _, p := range []string{"COMMIT", "PREPARE TRANSACTION", "ROLLBACK PREPARED", "message: transactional: 0"} {
			if hasPrefix(b, p) {
				return true
			}
		}
		return false
	}
	if hasPrefix(b, `{"action":"M"`) {
		head, _, _ := bytes.Cut(b, []byte(`"prefix"`))
		return bytes.Contains(head, []byte(`"transactional":false`))
	}
	return hasPrefix(b, `{"action":"C"`)
}

func hasPrefix(b []byte, s string) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }

// Connected begins with a connection: the server resumes behind b.From, and nowhere else.
func (f *Plugin) Connected(b Beginning) {
	f.until, f.pending, f.settling = b.Until, false, false
	f.again, f.now = len(f.sent), entry{}
	f.forget(b.From)
	f.again = 0
}

// forget drops the entries that the server does not send again: confirmed ones. But those it has yet to send over this
// connection, that were confirmed since it began, it does send.
func (f *Plugin) forget(confirmed wal.LSN) {
	n := 0
	for n < f.again && f.sent[n].end != 0 && f.sent[n].end <= confirmed {
		n++
	}
	f.sent = f.sent[n:]
	f.again -= n
}

// Next takes in a frame, or goes on.
func (f *Plugin) Next(frame *session.Frame, t *Turn) (Act, error) {
	switch {
	case frame == nil && f.pending:
		f.pending = false
		return f.noteDelivered(t)
	case frame == nil && f.settling:
		f.settling = false
		f.forget(t.Confirmed)
		return NextFrame, nil
	case frame == nil || frame.Keepalive:
		return NextFrame, nil
	case frame.Start > f.until:
		t.Received = 0
		return Finish, nil
	}
	m := &f.item
	*m = Item{Kind: Raw, LSN: frame.Start, Sent: frame.SentAt, Data: string(frame.Data)}
	if f.ends != notTold {
		f.now.messages++
		f.now.hash = resume.Hash(f.now.hash, frame.Data)
		if f.ends.isLast(frame.Data) {
			f.now.end = m.LSN
		}
		if f.again == len(f.sent) {
			f.sent = append(f.sent, entry{})
		}
		was := &f.sent[f.again]
		switch {
		case was.messages == f.now.messages && was.hash != f.now.hash,
			was.end != 0 && was.messages < f.now.messages,
			f.now.end != 0 && was.messages > f.now.messages:
			t.Details = []any{"lsn", m.LSN.String(), "delivered", was.messages}
			f.sent = f.sent[:f.again]
			return Repeat, nil
		case was.messages >= f.now.messages:
			return f.close(t)
		}
	}
	f.pending, t.Item = true, m
	return Deliver, nil
}

func (f *Plugin) noteDelivered(t *Turn) (Act, error) {
	f.high = max(f.high, f.item.LSN)
	if f.ends == notTold {
		return t.settled(f.high, f.high, nil)
	}
	f.sent[f.again] = f.now
	return f.close(t)
}

// close ends the transaction if the message was its last.
func (f *Plugin) close(t *Turn) (Act, error) {
	switch {
	case f.now.end != 0:
		f.again, f.now, f.settling = f.again+1, entry{}, true
		return t.settled(f.item.LSN, f.item.LSN, nil)
	case f.item.LSN == f.until:
		t.Received = 0
		return Finish, nil
	}
	return NextFrame, nil
}
