package walchan

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
)

// types is what a stream knows of PostgreSQL's types.
type types struct{}

func newTypes() *types { return &types{} }

func (t *types) unknown(cols []Column) []uint32 { return nil }

func (t *types) lookup(ctx context.Context, conn *pgconn.PgConn, oids []uint32) error { return nil }

func (t *types) name(oid uint32) string { return "" }
