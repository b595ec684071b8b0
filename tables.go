package walchan

import (
	"context"

	"github.com/walchan/walchan/internal/txn"
)

// describe makes a Relation of a table that the server has described.
func (f *changes) describe(t *turn, table *txn.Table) (act, error) {
	r := &Relation{OID: table.OID, Schema: table.Schema, Name: table.Name, ReplicaIdentity: ReplicaIdentity(table.Ident), Columns: make([]Column, len(table.Columns))}
	for i, c := range table.Columns {
		r.Columns[i] = Column{Name: c.Name, Key: c.Key, TypeOID: c.TypeOID, TypeMod: c.TypeMod}
	}
	table.Owner = r
	if table.Again || f.made.tables == 0 { // announced again, or over a new connection
		f.types.Forget()
	}
	f.made.tables++
	oids := append(f.types.Unknown(r.typeOIDs()), f.types.Stale()...)
	if len(oids) == 0 {
		r.bind(f.types)
		return nextFrame, nil
	}
	f.done.table, t.relation, t.oids = table, r, oids
	return lookUp, nil
}

// bind ends the description of a table, now that its types are looked up.
func (f *changes) bind(table *txn.Table) { table.Owner.(*Relation).bind(f.types) }

// lookUp has types of a table's columns looked up, on a second connection. Should that fail they are converted with what was known
// before, or are their text.
func (o *owner) lookUp(r *Relation, oids []uint32) error {
	failed, err := o.await(func(ctx context.Context) error {
		conn, err := o.conn.Load().DialOrdinary(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		return o.types.Lookup(ctx, conn, oids)
	})
	if err == nil && failed != nil {
		o.cfg.log.Warn("types of a table could not be looked up: their values are text", "slot", o.source.Slot, "table", r.String(), "error", failed)
	}
	return err
}
