package link

import "time"

// AskTimeout is for what is asked of the server beside the stream.
const AskTimeout = 10 * time.Second

// Timers are the times of a connection.
type Timers struct {
	Status  time.Duration // between two statuses without news
	Receive time.Duration // of silence, after which the server is suspected
	Sender  time.Duration // the server's wal_sender_timeout; 0: none
}

// With returns the timers for a server's wal_sender_timeout. t has what the user asks for, 0: nothing. tooLong says that the server may
// hang up.
func (t Timers) With(sender time.Duration) (with Timers, tooLong bool) {
	const most, least = 10 * time.Second, 100 * time.Millisecond
	t.Sender = sender
	switch {
	case t.Status != 0:
		tooLong = sender > 0 && t.Status > sender/2
	case sender > 0:
		t.Status = min(max(sender/6, least), most)
	default:
		t.Status = most
	}
	switch {
	case t.Receive != 0:
	case sender != 0:
		t.Receive = sender
	default:
		t.Receive = time.Minute
	}
	return t, tooLong
}

// Unread returns what lies between two statuses while nobody reads. The server cannot ask for one then.
func (t *Timers) Unread() time.Duration {
	if t.Sender > 0 {
		return min(t.Status, max(t.Sender/6, 100*time.Millisecond))
	}
	return t.Status
}

// Patience returns how long a server that is asked something short may take. One over a connection that nobody else has closed would be
// waited for without end.
func (t *Timers) Patience() time.Duration { return max(t.Receive, AskTimeout) }
