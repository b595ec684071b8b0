package walchan

import (
	"bytes"
	"strconv"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

// raw is the feed of output plugins whose messages are handed over as they come.
//
// Where the ends of transactions are recognised they alone are confirmed, and the server resumes exactly after the last one:
// then it sends the same transactions in the same order as before, and what was delivered of each can be counted off. The
// position of a message is of no use for that, for it is not even monotonic. For other plugins the highest position of
// the acknowledged prefix is confirmed, which is safe (transactions are sent in commit order, and a change lies before its
// own commit), and what was not confirmed is delivered again after a reconnect.
type raw struct {
	ends  func([]byte) place // nil: not known
	until LSN

	msg      Message // scratch
	pending  bool    // it is being delivered
	settling bool    // and was the last of its transaction

	sent  []entry // delivered behind the last confirmed end, the last one perhaps not complete
	again int     // how many of these the server has sent again, wholly: the index of the one it is sending
	now   entry   // the one it is sending, so far
	high  LSN     // of what was delivered
}

func (f *raw) disconnected() {}

func (f *raw) takeBack() { f.pending = false }

func (f *raw) delivered() resume.Point { return resume.Point{Through: f.high, Message: f.high} }

func (f *raw) held() int64 { return 0 }

// entry is a transaction, or a message outside of transactions.
type entry struct {
	end      LSN // 0: not complete
	messages uint64
	hash     uint32
}

// place is where a message stands.
type place uint8

const (
	inside place = iota // in a transaction, or its beginning
	last                // the last one of a transaction, or outside of transactions
)

// transactionEnds returns how a plugin's messages tell where transactions end; nil where that is not known.
func transactionEnds(plugin string, args map[string]string) func([]byte) place {
	isOn := func(arg string, unset bool) bool {
		on, err := strconv.ParseBool(args[arg])
		return on || err != nil && unset
	}
	switch {
	case plugin == "test_decoding" && !isOn("stream-changes", false):
		// contrib/test_decoding/test_decoding.c. A change begins with "table", a transaction with "BEGIN".
		return func(b []byte) place {
			for _, p := range []string{"COMMIT", "PREPARE TRANSACTION", "ROLLBACK PREPARED", "message: transactional: 0"} {
				if hasPrefix(b, p) {
					return last
				}
			}
			return inside
		}
	case plugin == "wal2json" && args["format-version"] == "2" && isOn("include-transaction", true):
		return func(b []byte) place {
			switch {
			case hasPrefix(b, `{"action":"C"`):
				return last
			case hasPrefix(b, `{"action":"M"`):
				head, _, _ := bytes.Cut(b, []byte(`"prefix"`))
				if bytes.Contains(head, []byte(`"transactional":false`)) {
					return last
				}
			}
			return inside
		}
	}
	return nil
}

func hasPrefix(b []byte, s string) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }

// connected: the server resumes behind from, and nowhere else.
func (f *raw) connected(b beginning) {
	f.until, f.pending, f.settling = b.until, false, false
	f.again, f.now = len(f.sent), entry{}
	f.forget(b.from)
	f.again = 0
}

// forget drops the entries that the server does not send again: confirmed ones. But those it has yet to send over this
// connection, that were confirmed since it began, it does send.
func (f *raw) forget(confirmed LSN) {
	n := 0
	for n < f.again && f.sent[n].end != 0 && f.sent[n].end <= confirmed {
		n++
	}
	f.sent = f.sent[n:]
	f.again -= n
}

func (f *raw) next(frame *session.Frame, t *turn) (act, error) {
	switch {
	case frame == nil && f.pending:
		f.pending = false
		return f.noteDelivered(t)
	case frame == nil && f.settling:
		f.settling = false
		f.forget(t.confirmed)
		return nextFrame, nil
	case frame == nil || frame.Keepalive:
		return nextFrame, nil
	case frame.Start > f.until:
		t.received = 0
		return finish, nil
	}
	m := &f.msg
	*m = Message{Kind: Raw, LSN: frame.Start, sent: frame.SentAt, data: string(frame.Data)}
	if f.ends != nil {
		f.now.messages++
		f.now.hash = resume.Hash(f.now.hash, frame.Data)
		if f.ends(frame.Data) == last {
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
			t.details = []any{"lsn", m.LSN, "delivered", was.messages}
			f.sent = f.sent[:f.again]
			return repeat, nil
		case was.messages >= f.now.messages:
			return f.close(t)
		}
	}
	f.pending, t.message = true, m
	return deliver, nil
}

func (f *raw) noteDelivered(t *turn) (act, error) {
	f.high = max(f.high, f.msg.LSN)
	if f.ends == nil {
		return t.settled(f.high, f.high, nil)
	}
	f.sent[f.again] = f.now
	return f.close(t)
}

// close ends the transaction if the message was its last.
func (f *raw) close(t *turn) (act, error) {
	switch {
	case f.now.end != 0:
		f.again, f.now, f.settling = f.again+1, entry{}, true
		return t.settled(f.msg.LSN, f.msg.LSN, nil)
	case f.msg.LSN == f.until:
		t.received = 0
		return finish, nil
	}
	return nextFrame, nil
}
