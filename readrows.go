package walchan

import (
	"context"

	"github.com/walchan/walchan/internal/backfill"
	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/snapshot"
	"github.com/walchan/walchan/internal/tables"
)

// ReadRows delivers the rows that exist of a table among the changes: a SnapshotBegin, a Read for each row, a SnapshotEnd. It is for
// a table that is added to the publication of a stream, and for one that is too large for WithSnapshot: it holds no
// long transaction, nor back the stream. It returns when all is delivered. Call it from a goroutine of its own, not from the one that
// receives; one table at a time.
//
// A Read is the row as it is at its place among the changes, so that the last word on a row is always the last message. Changes come
// in between, also of rows that were not delivered yet: an Update of a row that is not there puts it there, a Delete of one does
// nothing. Over reconnects ReadRows goes on by itself, and where a column is added, with the Relation of the table as it is then.
// While the stream has no connection, ReadRows has none either. When the server is stopping, ReadRows notices it within seconds and
// waits until the stream is connected again: so a smart stop (pg_ctl stop -m smart) does not wait for it.
//
// The rows come in the order of the key, but for a few that come again, later. So if the process ends in the middle, the
// next one goes on where it was: after are the values of the key's columns, as text, of the last Read that was stored.
// Rows up to there are not read any more. Of these the consumer may lack large values that an Update has left Unchanged: where that Update
// moved the row there from behind, while nobody read or after its process ended before the row came again; or where it came
// just when its piece was read, and the process ended then. What is stored tells them, by the value it does not have, and
// a SnapshotTable.Where reads them. With REPLICA IDENTITY FULL there are none, and none without large values.
//
// The table must have a primary key or a replica identity index (ErrTableKey), and keep that and its name until the end. It begins when the transactions that are
// running have ended, as a slot does. The role needs to write to the database's log (pg_logical_emit_message, transactional,
// with a prefix that streams of this package do not deliver), so it cannot be used on a standby, nor with WithTwoPhase or
// WithBinary. It stops when ctx ends, and with the stream.
func (s *Stream) ReadRows(ctx context.Context, table SnapshotTable, after ...string) error {
	if err := s.cfg.readRowsProblems(table); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	var notes *backfill.Notes
	defer func() { s.reading.CompareAndSwap(notes, nil) }()
	err := backfill.Run(ctx, backfill.Request{Table: tables.Choice(table), After: after, Publications: s.cfg.publications, Types: s.types,
		Slot: s.source.Slot, Log: s.cfg.log, Retry: s.cfg.retry,
		Connection: func() (backfill.Connection, bool) {
			c := s.conn.Load()
			if c == nil {
				return backfill.Connection{}, false
			}
			return backfill.Connection{Life: c.life, Next: c.next, Server: c.OrdinaryConfig}, true
		},
		Described: func(t *snapshot.Table, n *backfill.Notes) error {
			if notes == nil && !s.reading.CompareAndSwap(nil, n) {
				return invalid("ReadRows is at work already: one table at a time")
			}
			notes = n
			t.Owner = relationOf(t.Table, s.types)
			s.gauge.read.Store(t)
			return nil
		},
	})
	if err != nil && s.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

// readRowsProblems is what keeps a stream with these options from reading the table.
func (c *config) readRowsProblems(table SnapshotTable) error {
	var problems []string
	switch {
	case c.plugin != pgoutputPlugin:
		problems = append(problems, "ReadRows belongs to pgoutput, not to the plugin "+c.plugin)
	case c.binary || c.isTwoPhase():
		problems = append(problems, "ReadRows cannot be used with WithBinary or WithTwoPhase")
	case !pgoutput.IsOn(c.pgoutputArgs()["messages"]):
		problems = append(problems, `ReadRows needs the messages that WithPluginOption("messages", …) switches off`)
	}
	if _, err := pgsql.ParsePattern(table.Name); err != nil {
		problems = append(problems, "ReadRows: "+err.Error())
	}
	return invalid(problems...)
}

// deliverPiece delivers the piece of ReadRows whose mark the stream has come to. It is called again, if the connection breaks meanwhile
// and the mark comes again.
func (o *owner) deliverPiece(mark *feed.Item, at *resume.Place) error {
	notes := o.reading.Load()
	if notes == nil {
		return nil
	}
	p := notes.Take(mark.Data)
	if p == nil {
		return nil
	}
	rel := p.Table.Owner.(*Relation)
	info := &Snapshot{Tables: []*Relation{rel}, Attempt: 1, Among: true, at: at}
	if p.First && !p.Begun {
		if err := o.deliver(&Message{Kind: SnapshotBegin, LSN: mark.LSN, sent: mark.Sent, ext: info}); err != nil {
			return err
		}
		p.Begun = true
	}
	out := Message{Kind: Read, LSN: mark.LSN, Relation: rel, sent: mark.Sent, ext: at}
	for row, ok := p.Next(); ok; row, ok = p.Next() {
		out.data = seal(row)
		if err := o.deliver(&out); err != nil {
			return err
		}
		p.Delivered()
	}
	if p.IsLast() {
		if err := o.deliver(&Message{Kind: SnapshotEnd, LSN: mark.LSN, sent: mark.Sent, ext: info}); err != nil {
			return err
		}
	}
	notes.Done(p)
	return nil
}
