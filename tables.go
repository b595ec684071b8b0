package walchan

import (
	"context"

	"github.com/walchan/walchan/internal/txn"
)

// describe makes the Relation of a table that the server has described.
func (o *owner) describe(c *connection, table *txn.Table) error {
	r := &Relation{OID: table.OID, Schema: table.Schema, Name: table.Name, ReplicaIdentity: ReplicaIdentity(table.Ident), Columns: make([]Column, len(table.Columns))}
	for i, col := range table.Columns {
		r.Columns[i] = Column{Name: col.Name, Key: col.Key, TypeOID: col.TypeOID, TypeMod: col.TypeMod}
	}
	table.Owner = r
	if table.Again || !c.described { // announced again, or over a new connection
		o.types.Forget()
	}
	c.described = true
	if oids := append(o.types.Unknown(r.typeOIDs()), o.types.Stale()...); len(oids) > 0 {
		if err := o.lookUp(r, oids); err != nil {
			return err
		}
	}
	r.bind(o.types)
	return nil
}

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
