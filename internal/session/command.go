package session

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// ErrCopy says that a command is COPY.
var ErrCopy = errors.New("no data is copied here")

// Command is Query for any command that somebody has written. It ends a COPY, also one among other statements, and returns ErrCopy. Query would wait for
// ever, because the server waits for data.
func (c *Conn) Command(ctx context.Context, command string) (rows [][]string, err error) {
	c.pg.Frontend().SendQuery(&pgproto3.Query{String: command})
	if err := c.pg.Frontend().Flush(); err != nil {
		return nil, err
	}
	var refused error
	for {
		msg, err := c.pg.ReceiveMessage(ctx)
		if err != nil {
			c.net.Close() // the answer may come yet: this is no connection for commands any more
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.DataRow:
			rows = append(rows, text(msg.Values))
		case *pgproto3.ErrorResponse:
			if refused == nil {
				refused = pgconn.ErrorResponseToPgError(msg)
			}
		case *pgproto3.CopyInResponse:
			refused = ErrCopy
			c.pg.Frontend().Send(&pgproto3.CopyFail{Message: ErrCopy.Error()})
			if err := c.pg.Frontend().Flush(); err != nil {
				return nil, err
			}
		case *pgproto3.CopyOutResponse:
			refused = ErrCopy
			_ = c.Cancel(ctx)
		case *pgproto3.ReadyForQuery:
			return rows, refused
		}
	}
}

func text(row [][]byte) []string {
	s := make([]string, len(row))
	for i := range row {
		s[i] = string(row[i])
	}
	return s
}
