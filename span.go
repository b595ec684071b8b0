package walchan

import (
	"fmt"
)

// From where to where a stream goes: an interval of the commits' positions, with its beginning and without its end. So what one
// stream ends with, and the next one begins with, overlaps in nothing and leaves nothing out.

// WithFrom has the stream begin at a position, overriding the default of what the slot has as confirmed: for a consumer that
// keeps the position itself, with what it makes of the changes. What was committed at lsn or behind it is sent, thus from
// Tx.CommitLSN on that transaction itself, and from its Message.End on the next one.
//
// What lies before is confirmed, so that no stream from the slot gets it any more. The server cannot go back behind what
// the slot has as confirmed: it begins there, if that is more. A position ahead of the server's WAL is refused
// (ErrOptions): what is written up to it later would be left out without a word. A slot that is made for the stream
// begins now, so that WithFrom needs one that exists.
func WithFrom(lsn LSN) Option { return func(c *config) { c.from = lsn } }

// WithUntil has the stream end by itself at a position, overriding the default of going on until it is stopped, as
// pg_recvlogical does with --endpos. What was committed before lsn is delivered, whole, and nothing that was committed at
// lsn or behind it: with Tx.CommitLSN the transaction is left out, with its Message.End, or what pg_current_wal_lsn()
// returns behind its COMMIT, it is the last one. If the server has not come so far the stream waits for it.
//
// With another output plugin than pgoutput what counts is each message's own LSN: the last message is the one at lsn, or
// the one before the first that lies behind it. So a part of a transaction that was committed later may be delivered; it is
// not confirmed.
//
// At the end C is closed and Err returns nil, as after a stop. But the stream then waits for the outstanding
// acknowledgements without a limit, until its context is cancelled, which begins the drain timeout, or Close is called.
func WithUntil(lsn LSN) Option { return func(c *config) { c.until = lsn } }

// WithUntilNow is WithUntil with the end of the server's WAL as of Subscribe: for a program that takes what there is, and is
// started again some time later.
func WithUntilNow() Option { return func(c *config) { c.untilNow = true } }

// spanProblems names what is wrong with these options.
func (c *config) spanProblems() (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.from != 0 && (c.slot == "" || c.createSlot) {
		wrong("WithFrom needs WithSlot, without WithCreateSlot: a new slot begins now")
	}
	if c.until != 0 && c.untilNow {
		wrong("WithUntil and WithUntilNow exclude one another")
	}
	if c.until != 0 && c.until < c.from {
		wrong("WithUntil(%s) lies before WithFrom(%s)", c.until, c.from)
	}
	return problems
}

// ending returns where the stream ends. walEnd is where the server's WAL ends.
func (c *config) ending(walEnd LSN) LSN {
	switch {
	case c.untilNow:
		return walEnd
	case c.until != 0:
		return c.until
	}
	return never
}

const never = ^LSN(0)

// errEnded says that the stream has come to its end: the server has said that it is there, or has sent what lies behind it. As it
// sends transactions in the order of their commits, all that lies before has come.
var errEnded error = &Error{Kind: ErrClosed, What: "the stream has come to its end"}
