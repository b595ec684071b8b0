package walchan

import (
	"context"
	"fmt"
	"slices"

	"github.com/walchan/walchan/internal/pgoutput"
)

// table is a table as the server has described it on this connection.
type table struct {
	*Relation
	seq uint64 // of the message that did
}

func (f *changes) relation(oid uint32, columns int) (*Relation, error) {
	r := f.last
	if r == nil || r.OID != oid {
		if r = f.relations[oid].Relation; r == nil {
			return nil, unexpected(fmt.Sprintf("change of a table (OID %d) that was not described", oid))
		}
		f.last = r
	}
	if columns >= 0 && columns != len(r.Columns) {
		return nil, unexpected(fmt.Sprintf("row of %d columns for %s, which has %d", columns, r, len(r.Columns)))
	}
	return r, nil
}

// describe takes in the description of a table.
func (f *changes) describe(s *Stream, ev *pgoutput.Event, seq uint64) error {
	r := &Relation{OID: ev.OID, Schema: ev.Schema, Name: ev.Name, ReplicaIdentity: ReplicaIdentity(ev.Ident)}
	r.Columns = make([]Column, len(ev.Columns))
	for i, c := range ev.Columns {
		r.Columns[i] = Column{Name: c.Name, Key: c.Key, TypeOID: c.TypeOID, TypeMod: c.TypeMod}
	}
	was := f.relations[ev.OID].Relation
	switch {
	case was != nil && seq < f.frames && was.isDescribedAs(r):
		r = was // for a transaction in progress tables are described again, and that after each savepoint that is rolled back
	case was != nil, len(f.relations) == 0: // announced again, or a new connection
		s.types.Forget()
	}
	if err := s.learnTypes(r); err != nil {
		return err
	}
	if r != was {
		r.bind(s.types)
	}
	f.relations[ev.OID], f.last = table{r, seq}, nil
	return nil
}

func (r *Relation) isDescribedAs(o *Relation) bool {
	return r.Schema == o.Schema && r.Name == o.Name && r.ReplicaIdentity == o.ReplicaIdentity &&
		slices.EqualFunc(r.Columns, o.Columns, func(a, b Column) bool {
			return a.Name == b.Name && a.Key == b.Key && a.TypeOID == b.TypeOID && a.TypeMod == b.TypeMod
		})
}

// keepNewer puts back of the tables as they were described before what was described later than what has replaced it.
func (f *changes) keepNewer(before map[uint32]table) {
	for oid, t := range before {
		if t.seq > f.relations[oid].seq {
			f.relations[oid] = t
		}
	}
	f.last = nil
}

// learnTypes has the types of a table's columns looked up that are not known yet, on a second connection. Should that fail
// they are converted with what was known before, or are their text.
func (s *Stream) learnTypes(r *Relation) error {
	if oids := append(s.types.Unknown(r.typeOIDs()), s.types.Stale()...); len(oids) > 0 {
		failed, err := s.await(func(ctx context.Context) error {
			conn, err := s.conn.Load().dialOrdinary(ctx)
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			return s.types.Lookup(ctx, conn, oids)
		})
		if err != nil {
			return err
		}
		if failed != nil {
			s.cfg.log.Warn("types of a table could not be looked up: their values are text", "slot", s.source.Slot, "table", r.String(), "error", failed)
		}
	}
	return nil
}
