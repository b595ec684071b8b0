package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// The loop that everybody writes, after the example that comes with pglogrepl: receive with a deadline, parse, send on a
// channel, and every ten seconds tell the server how far the consumer is.

const plainInterval = 10 * time.Second

// plain is such a loop.
type plain struct {
	conn *pgconn.PgConn
	c    chan plainMessage
	done atomic.Uint64 // what the consumer has done
	err  error         // set before c is closed
}

type plainMessage struct {
	lsn pglogrepl.LSN
	pglogrepl.Message
}

// startPlain connects and has the server begin to send. The connection must be one for replication.
func startPlain(ctx context.Context, cfg *pgconn.Config, slot string) (*pgconn.PgConn, error) {
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + publication + "'"},
	})
	if err != nil {
		conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

func sendStatus(ctx context.Context, conn *pgconn.PgConn, lsn pglogrepl.LSN) error {
	return pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: lsn})
}

func newPlain(ctx context.Context, cfg *pgconn.Config, slot string) (*plain, error) {
	conn, err := startPlain(ctx, cfg, slot)
	if err != nil {
		return nil, err
	}
	return &plain{conn: conn, c: make(chan plainMessage, 64)}, nil
}

// run is the loop. It ends when ctx does.
func (p *plain) run(ctx context.Context) {
	defer close(p.c)
	status := time.Now().Add(plainInterval)
	for ctx.Err() == nil {
		if time.Now().After(status) {
			if p.err = sendStatus(ctx, p.conn, pglogrepl.LSN(p.done.Load())); p.err != nil {
				return
			}
			status = time.Now().Add(plainInterval)
		}
		until, cancel := context.WithDeadline(ctx, status)
		raw, err := p.conn.ReceiveMessage(until)
		cancel()
		if pgconn.Timeout(err) {
			continue
		}
		if err != nil {
			p.err = err
			return
		}
		data, ok := raw.(*pgproto3.CopyData)
		if !ok {
			p.err = fmt.Errorf("unexpected %T", raw)
			return
		}
		switch data.Data[0] {
		case pglogrepl.PrimaryKeepaliveMessageByteID:
			alive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data.Data[1:])
			if err != nil {
				p.err = err
				return
			}
			if alive.ReplyRequested {
				status = time.Time{}
			}
		case pglogrepl.XLogDataByteID:
			wal, err := pglogrepl.ParseXLogData(data.Data[1:])
			if err != nil {
				p.err = err
				return
			}
			msg, err := pglogrepl.Parse(wal.WALData)
			if err != nil {
				p.err = err
				return
			}
			select {
			case p.c <- plainMessage{wal.WALStart, msg}:
			case <-ctx.Done():
			}
		}
	}
}

// contendPlain is the contender. With values it decodes every row to a map of Go values, as that example does.
func contendPlain(ctx context.Context, r *receiver, values bool) error {
	cfg, err := pgconn.ParseConfig(r.dsn + " replication=database")
	if err != nil {
		return err
	}
	p, err := newPlain(ctx, cfg, r.slot)
	if err != nil {
		return err
	}
	loop, stop := context.WithCancel(ctx)
	defer stop()
	go p.run(loop)
	relations := map[uint32]*pglogrepl.RelationMessage{}
	types := pgtype.NewMap()
	for m := range p.c {
		r.messages++
		switch m := m.Message.(type) {
		case *pglogrepl.RelationMessage:
			relations[m.RelationID] = m
		case *pglogrepl.InsertMessage:
			if values {
				if _, err := rowValues(types, relations[m.RelationID], m.Tuple); err != nil {
					return err
				}
			}
		case *pglogrepl.CommitMessage:
			p.done.Store(uint64(m.TransactionEndLSN))
			if m.TransactionEndLSN >= r.end {
				stop()
				for range p.c { // until the loop has ended
				}
				return finishPlain(ctx, p)
			}
		}
	}
	return p.err
}

// finishPlain tells the server the last position, over a connection whose read may have been interrupted.
func finishPlain(ctx context.Context, p *plain) error {
	defer p.conn.Close(ctx)
	if p.conn.IsClosed() {
		return nil
	}
	return sendStatus(ctx, p.conn, pglogrepl.LSN(p.done.Load()))
}

func rowValues(types *pgtype.Map, rel *pglogrepl.RelationMessage, row *pglogrepl.TupleData) (map[string]any, error) {
	values := make(map[string]any, len(row.Columns))
	for i, col := range row.Columns {
		name, oid := rel.Columns[i].Name, rel.Columns[i].DataType
		switch col.DataType {
		case 'n':
			values[name] = nil
		case 't':
			t, ok := types.TypeForOID(oid)
			if !ok {
				values[name] = string(col.Data)
				continue
			}
			v, err := t.Codec.DecodeValue(types, oid, pgtype.TextFormatCode, col.Data)
			if err != nil {
				return nil, err
			}
			values[name] = v
		}
	}
	return values, nil
}
