package walchan

import (
	"context"
	"slices"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/tables"
	"github.com/walchan/walchan/internal/value"
)

// What a snapshot reads. All questions are asked within the snapshot, so that the answers are those of the moment at which the
// stream begins. Where PostgreSQL answers from its caches, with what is now, it is made sure that this is the same.

// plan finds the tables and cuts them into parts, locks them, and makes sure that they can be read.
func (p *snapshot) plan(ctx context.Context, c *connection, o *owner) (err error) {
	if p.keeper, err = c.share(ctx, p.name); err != nil {
		return err
	}
	version, _ := c.Version()
	published, err := tables.OfPublications(ctx, p.keeper, version, o.cfg.publications)
	if err != nil {
		return err
	}
	if err := p.checkPublications(ctx, version, o.cfg.publications); err != nil {
		return err
	}
	chosen, err := tables.Choose(ctx, p.keeper, published, choicesOf(o.cfg.snapshot.choices))
	if err != nil {
		return err
	}
	if err := tables.Describe(ctx, p.keeper, version, chosen); err != nil {
		return err
	}
	if err := tables.CheckKeys(chosen, o.cfg.snapshot.keys); err != nil {
		return err
	}
	if oids := o.types.Unknown(tables.ColumnTypes(chosen)); len(oids) > 0 {
		if err := o.types.Lookup(ctx, p.keeper.PG(), oids); err != nil {
			return pgfail.Failed("look up types", err)
		}
	}
	p.info = &Snapshot{}
	for _, t := range chosen {
		rel := relationOf(t.Table, o.types)
		p.info.Tables = append(p.info.Tables, rel)
		p.tables = append(p.tables, newSource(rel, t, o.cfg.binary))
	}
	return p.cut(ctx, o, chosen)
}

// relationOf returns the relation of a table that no stream has described.
func relationOf(d *tables.Table, t *value.Types) *Relation {
	r := &Relation{OID: d.OID, Schema: d.Schema, Name: d.Name, ReplicaIdentity: ReplicaIdentity(d.Identity), Columns: make([]Column, len(d.Columns))}
	for i, a := range d.Columns {
		r.Columns[i] = Column{Name: a.Name, Key: a.Key, TypeOID: a.TypeOID, TypeMod: a.TypeMod}
	}
	r.bind(t)
	return r
}

func choicesOf(chosen []SnapshotTable) []tables.Choice {
	all := make([]tables.Choice, len(chosen))
	for i, t := range chosen {
		all[i] = tables.Choice(t)
	}
	return all
}

// checkPublications fails if the publications were altered between the snapshot and now. What pg_publication_tables says is of now
// (GetPublicationRelations in src/backend/catalog/pg_publication.c), but the server streams the changes since the snapshot as
// the publications were at each: a table that was added meanwhile would lack the rows in between.
func (p *snapshot) checkPublications(ctx context.Context, version int, names []string) error {
	sql := tables.PublicationRows(version, names)
	then, err := p.keeper.Query(ctx, sql)
	if err != nil {
		return pgfail.Failed("look up the publications", err)
	}
	now, err := p.keeper.Query(ctx, "COMMIT; "+sql)
	if err != nil {
		return pgfail.Failed("look up the publications", err)
	}
	if !slices.EqualFunc(then, now, slices.Equal) {
		return &Error{Kind: ErrServer, What: "a publication was altered while the snapshot was taken", Advice: "try again"}
	}
	return join(ctx, p.keeper, p.name)
}

// newSource is what the workers need of a table.
func newSource(rel *Relation, t *tables.Published, binary bool) *source {
	src := &source{rel: rel, where: t.Where, generated: t.Generated}
	for i, col := range t.Table.Columns {
		name := pgsql.Quoted(col.Name)
		if binary && !t.Binary[i] {
			name += "::pg_catalog.text" // as pgoutput does with a type that has no binary format
			if src.text == nil {
				src.text = make([]bool, len(t.Table.Columns))
			}
			src.text[i] = true
		}
		src.columns = append(src.columns, name)
	}
	return src
}
