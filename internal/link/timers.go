package link

import "time"

// AskTimeout is for what is asked of the server beside the stream.
const AskTimeout = 10 * time.Second

// StatusInterval returns what lies between two statuses without news. wanted is what the user asks for, 0: nothing. senderTimeout is the
// server's wal_sender_timeout, 0: none. tooLong says that the server may hang up.
func StatusInterval(wanted, senderTimeout time.Duration) (interval time.Duration, tooLong bool) {
	const most, least = 10 * time.Second, 100 * time.Millisecond
	switch {
	case wanted != 0:
		return wanted, senderTimeout > 0 && wanted > senderTimeout/2
	case senderTimeout > 0:
		return min(max(senderTimeout/6, least), most), false
	}
	return most, false
}

// ReceiveTimeout returns the silence after which the server is suspected.
func ReceiveTimeout(wanted, senderTimeout time.Duration) time.Duration {
	switch {
	case wanted != 0:
		return wanted
	case senderTimeout != 0:
		return senderTimeout
	}
	return time.Minute
}
