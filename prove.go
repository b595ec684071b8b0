package walchan

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/causes"
	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgtime"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/internal/walrecord"
)

// A connection is on trial until its server is known to have the history of what the consumer has.
//
// The numbers of a position mean something else in another history: after a fail-over, a restore, a second promotion. Positions
// and timelines can show that (resume.Check), but they cannot show the opposite. So a proof is looked for. The slot is the
// first witness: where history may have changed its position is old, and the server sends the last transaction a second time. Then
// its XID and time must be the same. Where the slot stands after that transaction, the server is asked.
//
// Until then the server hears no position but the slot's own. A position of the other history could lie ahead of its WAL. The
// server would accept it, and would not send to the next connection what is written up to there.

// past is what a connection has to continue.
type past struct {
	resume.Origin
	resume.Point
	bound LSN   // the slot may have confirmed up to here
	told  []LSN // positions at which the slot may stand because of this consumer
}

// trial is what is still open.
type trial struct {
	past
	proven bool // the history is the same, but the last transaction has not come by
}

// witness looks at what comes by, as long as the last transaction is expected. begins is the beginning of a transaction; nil for a
// message outside of transactions and for a keepalive. ev is to be taken in once more when that is settled.
func (f *changes) witness(t *turn, lsn LSN, begins, ev *txn.Event) (act, error) {
	x := f.trial
	switch {
	case x == nil || lsn < x.Commit || lsn == x.Commit && begins == nil:
		return nextFrame, nil
	case lsn > x.Commit:
		f.done.asked, f.done.event, t.trial = true, ev, x
		return askServer, nil
	case !x.Is(begins.XID, begins.Time):
		return nextFrame, diverged(fmt.Sprintf("at %s the server has transaction %d of %s, and not %d of %s, which was delivered",
			lsn, begins.XID, pgtime.Time(begins.Time).Format(timeFormat), x.XID, pgtime.Time(x.Time).Format(timeFormat)))
	}
	f.trial = nil
	if x.proven {
		return nextFrame, nil
	}
	f.done.event, t.received, t.because = ev, 0, "the last transaction came again"
	return acceptServer, nil
}

// acquit ends the trial although the last transaction has not come: the stream has asked for it.
func (f *changes) acquit() {
	f.trial, f.done.asked = nil, false
	if !f.point.IsComplete() {
		f.point.Through = f.point.Commit + 1
	}
}

const timeFormat = "2006-01-02 15:04:05.000000"

// absent: the last transaction has not come, although the server must have sent it.
func (o *owner) absent(t *trial) error {
	c := o.conn.Load()
	if !t.proven {
		var answer answer
		failed, err := o.await(func(ctx context.Context) (err error) {
			answer, err = o.ask(ctx, c, t.past)
			return err
		})
		switch {
		case err != nil:
			return err
		case failed != nil:
			return failed
		case answer.is == no:
			return o.differs(t.Point, answer.by)
		case answer.is == unknown && o.cfg.proof != proofWaived:
			return &Error{Kind: ErrUnproven, What: fmt.Sprintf("transaction %d, which was committed at %s and delivered, should have come again and did not", t.XID, t.Commit),
				Advice: "either the server has another history, or the transaction is no longer published (see the publications); compare, then use WithProof(false), or begin anew"}
		case answer.is == unknown:
			o.doubt(c, "the last transaction did not come again")
		default:
			o.accept(c, answer.by)
		}
	}
	o.cfg.log.Warn("the last transaction that was delivered is no longer sent: is its table still published? The stream goes on after it",
		"slot", o.source.Slot, "xid", t.XID, "commit", t.Commit)
	return nil
}

// examine finds out, now that the slot is held, whether the server's history is that of p. start is where the stream was to begin.
func (o *owner) examine(ctx context.Context, c *connection, p past, start LSN) error {
	same := p.Started != 0 && p.Started == c.origin.Started
	var side *pgconn.PgConn
	var slot *slots.Row
	err := o.meanwhile(c, func() (err error) {
		if side, err = c.beside(ctx, same); err == nil {
			slot, err = slots.Read(ctx, querier(side), o.source.Slot)
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
		return o.missingSlot(nil)
	}
	if slot.Confirmed > p.bound {
		return o.moved(p, slot.Confirmed)
	}
	c.status.Told, c.limit, o.known, o.told = slot.Confirmed, slot.Confirmed, slot.Confirmed, p.bound
	c.from = max(start, slot.Confirmed)
	c.received = max(c.received, c.from)
	f, _ := o.feed.(*changes)
	if f != nil {
		f.trial = nil
	}
	switch resume.Next(p.Point, c.from, same) {
	case resume.Expect:
		f.trial = &trial{p, same}
		if same {
			o.accept(c, sameServer)
		}
		return nil
	case resume.Deliver:
		o.accept(c, sameServer)
		return nil
	}
	var answer answer
	err = o.meanwhile(c, func() (err error) {
		answer, err = o.question(ctx, c, side, p)
		return err
	})
	switch {
	case err != nil:
		return err
	case answer.is == no:
		return o.differs(p.Point, answer.by)
	case answer.is == yes:
		o.accept(c, answer.by)
	case p.stands(slot.Confirmed):
		o.accept(c, "the slot stands where this consumer left it")
	case o.cfg.proof == proofRequired:
		what := fmt.Sprintf("nothing proves that the server has transaction %d, which was committed at %s and delivered", p.XID, p.Commit)
		if !p.HasTransaction() {
			what = "nothing proves that the server has the history of the checkpoint, because no transaction was delivered yet"
		}
		return &Error{Kind: ErrUnproven, What: what,
			Advice: "compare the target with the server, then Subscribe without WithProof(true); a role with REPLICATION that may open a walsender, or track_commit_timestamp = on, gives the proof"}
	case p.HasTransaction() || o.cfg.checkpoints:
		o.doubt(c, answer.by)
	default:
		o.accept(c, "nothing was delivered")
	}
	return nil
}

const sameServer = "the server has not been restarted"

// stands says whether the slot is where this consumer has put it.
func (p past) stands(confirmed LSN) bool {
	for _, told := range append(p.told, p.Through) {
		if confirmed == told {
			return true
		}
	}
	return false
}

// accept ends the trial of a connection. From now on the server hears what is confirmed, except positions that only another server
// has reported.
func (o *owner) accept(c *connection, by string) {
	if by != sameServer {
		o.rewind(c)
		o.cfg.log.Info("the server has the history of what was delivered", "slot", o.source.Slot, "from", c.from, "because", by)
	}
	c.limit = never
}

// doubt goes on without a proof.
func (o *owner) doubt(c *connection, why string) {
	o.rewind(c)
	c.limit = never
	o.gauge.unproven.Store(true)
	o.cfg.log.Warn("nothing proves that the server has the history of what was delivered, and nothing disproves it: going on (see WithProof)",
		"slot", o.source.Slot, "from", c.from, "why", why)
}

// rewind forgets positions that may belong to another history.
func (o *owner) rewind(c *connection) {
	o.publish(c) // first: Stats must not say that more is confirmed than acknowledged
	o.ledger.Rewind(max(c.limit, o.certain()))
	if f, ok := o.feed.(*changes); ok {
		f.rewind(c.limit)
	}
}

// certain is the highest position that lies in the history of what was delivered for certain. A keepalive's position may not.
func (o *owner) certain() LSN {
	if f, ok := o.feed.(*changes); ok {
		return max(f.ended, f.point.Commit)
	}
	return o.feed.delivered().Through
}

// moved is the error of a slot that has confirmed what the consumer does not have.
func (o *owner) moved(p past, confirmed LSN) error {
	e := &Error{Kind: ErrSlotMoved, What: fmt.Sprintf("slot %q is at %s, ahead of %s, to which this stream has acknowledged", o.source.Slot, confirmed, p.bound),
		Advice: "something else has advanced the slot or made it again, and changes may be lost to this stream: compare, then Subscribe again"}
	if p.told == nil { // it is a checkpoint's
		e.What = fmt.Sprintf("slot %q is at %s, ahead of the checkpoint, which is at %s", o.source.Slot, confirmed, p.bound)
		e.Advice = fmt.Sprintf("either messages were acknowledged whose checkpoint was not stored, or the target is older than the slot, or something else has moved the slot; "+
			"if another process has stored more since the checkpoint was read, begin again (WithCheckpointFrom reads it in time). "+
			"Otherwise the changes in between are gone: copy the tables again (SubscribeAnew), or accept the gap with WithFrom(%s) beside WithCheckpoint", confirmed)
	}
	return e
}

func (o *owner) differs(p resume.Point, by string) error {
	return diverged(fmt.Sprintf("the server does not have transaction %d of %s, which was committed at %s and delivered (%s)", p.XID, pgtime.Time(p.Time).Format(timeFormat), p.Commit, by))
}

// diverged is the error of a server with another history.
func diverged(what string) error {
	return &Error{Kind: ErrDiverged, What: what,
		Advice: "what was delivered after the fork does not exist on this server: compare, repair the target, then begin anew (SubscribeAnew)"}
}

// answer is what the server says of the last transaction.
type answer struct {
	is yesNo
	by string
}

type yesNo uint8

const (
	unknown yesNo = iota
	yes
	no
)

// ask is question over a new connection.
func (o *owner) ask(ctx context.Context, c *connection, p past) (answer, error) {
	side, err := c.beside(ctx, false)
	if err != nil {
		return answer{}, err
	}
	defer side.Close(context.WithoutCancel(ctx))
	return o.question(ctx, c, side, p)
}

// question asks whether the server has the last transaction. It looks at the commit timestamp, then at the record in the WAL, then at
// the status of the XID. Afterwards side can only be closed.
func (o *owner) question(ctx context.Context, c *connection, side *pgconn.PgConn, p past) (answer, error) {
	if !p.HasTransaction() || p.IsBare() {
		return answer{by: "no transaction is known"}, nil
	}
	if !p.Prepared {
		if is := commitTimestamp(ctx, side, p.Point); is != unknown {
			return answer{is, "by its commit timestamp"}, nil
		}
	}
	// The status first: nothing can be asked over the connection once it has streamed.
	lost, status := isLost(ctx, side, p.Point)
	is, err := c.commitRecord(ctx, side, p.Point)
	if err := context.Cause(ctx); err != nil {
		return answer{}, pgfail.Failed("ask for the last transaction", err)
	}
	switch {
	case is != unknown:
		return answer{is, "by its record in the WAL"}, nil
	case lost:
		return answer{no, status}, nil
	}
	why := "its record in the WAL cannot be read"
	if err != nil {
		why += ": " + causes.Line(err)
	}
	return answer{by: why}, nil
}

// commitTimestamp asks for the time of a transaction, which a server knows that has track_commit_timestamp on.
func commitTimestamp(ctx context.Context, conn *pgconn.PgConn, p resume.Point) yesNo {
	rows, err := session.Query(ctx, conn, fmt.Sprintf("SELECT (extract(epoch from pg_catalog.pg_xact_commit_timestamp('%d'::pg_catalog.xid)) * 1000000)::pg_catalog.int8 - %d", p.XID, pgtime.Epoch))
	if err != nil || len(rows) != 1 || rows[0][0] == "" {
		return unknown
	}
	if rows[0][0] == strconv.FormatInt(p.Time, 10) {
		return yes
	}
	return no
}

// isLost says whether the server has never assigned the XID, or has rolled the transaction back. A prepared one may be rolled
// back after it was delivered.
func isLost(ctx context.Context, conn *pgconn.PgConn, p resume.Point) (bool, string) {
	if p.Prepared {
		return false, ""
	}
	switch status, err := transactionStatus(ctx, conn, p.XID); {
	case err != nil:
		return false, ""
	case status == "future":
		return true, "it has not come to that transaction"
	default:
		return status == "aborted", "it was rolled back there"
	}
}

// beside makes a second connection to the server of this one: a walsender, which can read WAL, or else an ordinary one.
// plain asks for an ordinary one.
func (c *connection) beside(ctx context.Context, plain bool) (*pgconn.PgConn, error) {
	cfg := c.ordinaryConfig()
	if !plain {
		walsender := cfg.Copy()
		walsender.RuntimeParams["replication"] = "database"
		// Not the stream's name, or it may be taken for a synchronous standby.
		walsender.RuntimeParams["application_name"] = "walchan proof"
		conn, err := pgconn.ConnectConfig(ctx, walsender)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, dial.Error(err, walsender)
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, dial.Error(err, cfg)
	}
	return conn, nil
}

func querier(conn *pgconn.PgConn) func(context.Context, string) ([][]string, error) {
	return func(ctx context.Context, sql string) ([][]string, error) { return session.Query(ctx, conn, sql) }
}

// refused makes an error of what resume.Check says.
func refused(err error) error {
	r := (*resume.Refusal)(nil)
	switch {
	case !errors.As(err, &r):
		return err
	case r.Passing:
		return slots.InRecovery(r.Text, nil)
	}
	return diverged(r.Text)
}

// commitRecord reads the record that commits or prepares the transaction out of the server's WAL. side can only be closed afterwards.
func (c *connection) commitRecord(ctx context.Context, side *pgconn.PgConn, p resume.Point) (yesNo, error) {
	want := walrecord.Want{LSN: uint64(p.Commit), XID: p.XID, Time: p.Time, Prepared: p.Prepared}
	answer, err := walrecord.Find(ctx, side, resume.TimelineAt(p.Commit, c.history, c.timeline), want)
	switch answer {
	case walrecord.Yes:
		return yes, nil
	case walrecord.No:
		return no, nil
	}
	return unknown, err
}
