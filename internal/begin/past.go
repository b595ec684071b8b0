package begin

import (
	"errors"

	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/wal"
)

// Past is what a connection has to continue.
type Past struct {
	resume.Origin
	resume.Point
	Bound wal.LSN   // the slot may have confirmed up to here
	Told  []wal.LSN // positions at which the slot may stand because of this consumer; nil: the past is that of a checkpoint
}

// Check is resume.Check of a server.
func (p *Past) Check(r *Remote) (wal.LSN, error) {
	bound, err := p.check(r.System, r.Standby, r.History)
	if err != nil {
		return 0, historyError(err)
	}
	return bound, nil
}

// CheckWAL is Check for a physical stream. history is that of the server's timeline.
func (p *Past) CheckWAL(system session.System, standby bool, history string) error {
	_, err := p.check(system, standby, history)
	if r := (*resume.Refusal)(nil); errors.As(err, &r) && !r.Passing {
		return OtherWAL(r.Text)
	}
	return historyError(err)
}

func (p *Past) check(system session.System, standby bool, history string) (wal.LSN, error) {
	server := resume.Server{Timeline: system.Timeline, Flushed: system.Flushed, Recovery: standby}
	return resume.Check(p.Origin, p.Point, p.Bound, server, func() (string, error) { return history, nil })
}

// Moved is the error of a slot that has confirmed what the consumer does not have.
func (p *Past) Moved(slot string, confirmed wal.LSN) error {
	if p.Told == nil {
		return slots.AheadOfCheckpoint(slot, confirmed, p.Bound)
	}
	return slots.Moved(slot, confirmed, p.Bound)
}

// stands says whether the slot is where this consumer has put it.
func (p *Past) stands(confirmed wal.LSN) bool {
	for _, told := range append(p.Told, p.Through) {
		if confirmed == told {
			return true
		}
	}
	return false
}

// Verdict says how a stream goes on.
type Verdict struct {
	Same  bool   // the server was not restarted since: there is nothing to prove
	Doubt bool   // nothing proves the history
	By    string // why
}

// judge says what an answer of the server means whose slot has confirmed a position. checkpoints says that the consumer stores them.
// required says that the stream must not go on without a proof.
func (p *Past) judge(answer Answer, confirmed wal.LSN, checkpoints, required bool) (Verdict, error) {
	switch {
	case answer.Is == No:
		return Verdict{}, differs(p.Point, answer.By)
	case answer.Is == Yes:
		return Verdict{By: answer.By}, nil
	case p.stands(confirmed):
		return Verdict{By: "the slot stands where this consumer left it"}, nil
	case required:
		return Verdict{}, unproven(p.Point)
	case p.HasTransaction() || checkpoints:
		return Verdict{Doubt: true, By: answer.By}, nil
	}
	return Verdict{By: "nothing was delivered"}, nil
}

// JudgeAbsent says what an answer means when the last transaction has not come again. waived says that the stream goes on without a proof.
func (p *Past) JudgeAbsent(answer Answer, waived bool) (Verdict, error) {
	switch {
	case answer.Is == No:
		return Verdict{}, differs(p.Point, answer.By)
	case answer.Is == Unknown && !waived:
		return Verdict{}, didNotComeAgain(p.Point)
	case answer.Is == Unknown:
		return Verdict{Doubt: true, By: "the last transaction did not come again"}, nil
	}
	return Verdict{By: answer.By}, nil
}
