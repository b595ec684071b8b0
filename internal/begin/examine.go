package begin

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// examine finds out, now that the slot is held, whether the server's history is that of p. start is where the stream was to begin.
func (a *attempt) examine(ctx context.Context, p Past, start wal.LSN) error {
	same := p.Started != 0 && p.Started == a.is.Started
	var side *pgconn.PgConn
	var slot *slots.Row
	err := a.meanwhile(func() (err error) {
		if side, err = a.c.DialBeside(ctx, same); err == nil {
			slot, err = slots.Read(ctx, slots.Over(side), a.Slot.Name)
		}
		return err
	})
	if side != nil {
		defer side.Close(context.WithoutCancel(ctx))
	}
	switch {
	case err != nil:
		return err
	case slot == nil:
		return a.missing(nil)
	case slot.Confirmed > p.Bound:
		return p.Moved(a.Slot.Name, slot.Confirmed)
	}
	a.confirmed = slot.Confirmed
	a.is.Past, a.is.Told, a.is.From = &p, slot.Confirmed, max(start, slot.Confirmed)
	switch resume.Next(p.Point, a.is.From, same) {
	case resume.Expect:
		a.is.Expected, a.is.Verdict.Same = true, same
		return nil
	case resume.Deliver:
		a.is.Verdict.Same = true
		return nil
	}
	var answer Answer
	err = a.meanwhile(func() (err error) {
		answer, err = a.is.hasTransaction(ctx, side, p.Point)
		return err
	})
	if err != nil {
		return err
	}
	a.is.Verdict, err = p.judge(answer, slot.Confirmed, a.Consumer != nil, a.Consumer != nil && a.Consumer.ProofRequired)
	return err
}

// meanwhile is Meanwhile for this attempt.
func (a *attempt) meanwhile(f func() error) error {
	return Meanwhile(a.c.Conn, a.is.Timers, a.confirmed, f)
}

// Meanwhile runs f after the server has begun to stream, and before anything is read. f may take its time, and the server must not
// take it for a dead client. So the server hears again and again what it has as confirmed, and nothing more.
func Meanwhile(c *session.Conn, timers link.Timers, confirmed wal.LSN, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	tick := time.NewTicker(timers.Unread())
	defer tick.Stop()
	var broken error
	for {
		select {
		case err := <-done:
			return errors.Join(err, broken)
		case now := <-tick.C:
			if broken != nil {
				continue
			}
			if err := c.Status(confirmed, confirmed, now, false); err != nil {
				broken = pgfail.Failed("connection lost", err)
			}
		}
	}
}
