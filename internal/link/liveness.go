package link

import "time"

// Liveness says whether a silent server is alive.
type Liveness struct {
	Timeout time.Duration // of silence
	HeardAt time.Time     // the last bytes, or the last time we did not listen
	askedAt time.Time     // when the server was asked for a sign of life; zero: it was not
}

// Suspicion is what silence means.
type Suspicion uint8

const (
	None  Suspicion = iota // the server was heard in time
	Ask                    // for a sign of life, and call Asked
	Doubt                  // it was asked, and has said nothing
)

// Suspect returns what the silence means, and when to look again if it means nothing.
func (l *Liveness) Suspect(now time.Time) (Suspicion, time.Time) {
	if l.askedAt.IsZero() {
		if ask := l.HeardAt.Add(l.Timeout / 2); now.Before(ask) {
			return None, ask
		}
		return Ask, now
	}
	if end := l.Deadline(); now.Before(end) {
		return None, end
	}
	return Doubt, now
}

// Asked notes that the server was asked.
func (l *Liveness) Asked(now time.Time) { l.askedAt = now }

// Deadline is when a server that was asked is suspected.
func (l *Liveness) Deadline() time.Time { return l.askedAt.Add(l.Timeout / 2) }

// Heard notes that the server was heard, or that nobody listened until now: what it sent meanwhile is still to be read.
func (l *Liveness) Heard(now time.Time) { l.HeardAt, l.askedAt = now, time.Time{} }
