// Package snapshot reads the rows that exist in tables: of all at one moment, over several connections at once.
//
// What is read is found out within the snapshot, so that the answers are those of the moment at which the stream begins. Where
// PostgreSQL answers from its caches, with what is now, it is made sure that this is the same.
package snapshot

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/tables"
	"github.com/walchan/walchan/internal/value"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// Request says what is to be read, and how.
type Request struct {
	Publications []string
	Choices      []tables.Choice // of their tables; none: all
	Keys         bool            // a table must have a replica identity
	Jobs         int             // connections that read at the same time
	Binary       bool
	Types        *value.Types // learns those of the columns
	Slot         string       // for the log
	Log          *slog.Logger
	Retry        func() backoff.BackOff // for a connection that is lost
	Wake         func()                 // called when there are rows, or none are left
}

// Snapshot is an exported snapshot that is to be read. Its methods are for one goroutine.
type Snapshot struct {
	Tables []*Table

	request  Request
	name     string
	from     wal.LSN
	server   func() *pgconn.Config
	parts    []*part
	keeper   *session.Conn // holds the tables' locks
	keeping  sync.Mutex    // who uses the keeper's connection, while there are workers
	unlocked bool          // the tables are
}

// New returns a snapshot that was exported with a name. from is where the changes begin. server is for ordinary connections to where
// it was exported.
func New(r Request, name string, from wal.LSN, server func() *pgconn.Config) *Snapshot {
	return &Snapshot{request: r, name: name, from: from, server: server}
}

// Plan finds the tables and cuts them into parts, locks them, and makes sure that they can be read.
func (s *Snapshot) Plan(ctx context.Context) (err error) {
	r := &s.request
	if s.keeper, err = s.share(ctx); err != nil {
		return err
	}
	version, _ := s.keeper.Version()
	published, err := tables.OfPublications(ctx, s.keeper, version, r.Publications)
	if err != nil {
		return err
	}
	if err := s.checkPublications(ctx, version, r.Publications); err != nil {
		return err
	}
	chosen, err := tables.Choose(ctx, s.keeper, published, r.Choices)
	if err != nil {
		return err
	}
	if err := tables.Describe(ctx, s.keeper, version, chosen); err != nil {
		return err
	}
	if err := tables.CheckKeys(chosen, r.Keys); err != nil {
		return err
	}
	if oids := r.Types.Unknown(tables.ColumnTypes(chosen)); len(oids) > 0 {
		if err := r.Types.Lookup(ctx, s.keeper.PG(), oids); err != nil {
			return pgfail.Failed("look up types", err)
		}
	}
	for _, t := range chosen {
		s.Tables = append(s.Tables, NewTable(t, r.Binary))
	}
	return s.cut(ctx)
}

// checkPublications fails if the publications were altered between the snapshot and now. pg_publication_tables shows them as they are now
// (GetPublicationRelations in src/backend/catalog/pg_publication.c). The server sends each change as the publications were at its time. So
// a table that was added since would lack the rows in between.
func (s *Snapshot) checkPublications(ctx context.Context, version int, names []string) error {
	sql := tables.PublicationRows(version, names)
	then, err := s.keeper.Query(ctx, sql)
	if err != nil {
		return pgfail.Failed("look up the publications", err)
	}
	now, err := s.keeper.Query(ctx, "COMMIT; "+sql)
	if err != nil {
		return pgfail.Failed("look up the publications", err)
	}
	if !slices.EqualFunc(then, now, slices.Equal) {
		return &walerr.Error{Kind: walerr.Server, What: "a publication was altered while the snapshot was taken", Advice: "try again"}
	}
	return s.join(ctx, s.keeper)
}

// Check makes sure that the locks are still held.
func (s *Snapshot) Check() error {
	if s.keeper == nil || s.unlocked || !s.keeping.TryLock() {
		return nil
	}
	defer s.keeping.Unlock()
	if err := s.keeper.Check(); err != nil {
		return pgfail.Failed("hold the tables' locks", err)
	}
	return nil
}

// Unlock lets the tables go, once all rows are read. If that succeeds they were locked all the time. The connection stays until Close: a
// server that is stopping in smart mode waits for it, and would end the connection that holds the temporary slot when no ordinary session
// is left.
func (s *Snapshot) Unlock(ctx context.Context) error {
	if _, err := s.keeper.Query(ctx, "COMMIT"); err != nil {
		return pgfail.Failed("read the tables", err)
	}
	s.unlocked = true
	return nil
}

// Close ends what holds the locks.
func (s *Snapshot) Close() {
	if s.keeper != nil {
		s.keeper.Close()
		s.keeper = nil
	}
}
