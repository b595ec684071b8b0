package walchan

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
)

// What a snapshot reads. All questions are asked within the snapshot, so that the answers are those of the moment at which the
// stream begins. Where PostgreSQL answers from its caches, with what is now, it is made sure that this is the same.

// plan finds the tables and cuts them into parts, locks them, and makes sure that they can be read.
func (p *snapshot) plan(ctx context.Context, c *connection, s *Stream) (err error) {
	if p.keeper, err = c.share(ctx, p.name); err != nil {
		return err
	}
	version, _ := c.Version()
	published, err := publishedTables(ctx, p.keeper, version, s.cfg.publications)
	if err != nil {
		return err
	}
	if err := p.checkPublications(ctx, version, s.cfg.publications); err != nil {
		return err
	}
	chosen, err := choose(ctx, p.keeper, published, s.cfg.snapshot.choices)
	if err != nil {
		return err
	}
	if err := describe(ctx, p.keeper, version, chosen); err != nil {
		return err
	}
	if err := checkColumns(chosen, s.cfg.snapshot.keys); err != nil {
		return err
	}
	if oids := s.types.Unknown(columnTypes(chosen)); len(oids) > 0 {
		if err := s.types.Lookup(ctx, p.keeper.PG(), oids); err != nil {
			return pgfail.Failed("look up types", err)
		}
	}
	p.info = &Snapshot{}
	for _, t := range chosen {
		t.rel.bind(s.types)
		p.info.Tables = append(p.info.Tables, t.rel)
		p.tables = append(p.tables, t.source(s.cfg.binary))
	}
	return p.cut(ctx, s, chosen)
}

// checkPublications fails if the publications were altered between the snapshot and now. What pg_publication_tables says is of now
// (GetPublicationRelations in src/backend/catalog/pg_publication.c), but the server streams the changes since the snapshot as
// the publications were at each: a table that was added meanwhile would lack the rows in between.
func (p *snapshot) checkPublications(ctx context.Context, version int, names []string) error {
	sql := publicationRows(version, names)
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

// describe makes the relations as the server will describe them in the stream (logicalrep_write_attrs in
// src/backend/replication/logical/proto.c).
func describe(ctx context.Context, c *session.Conn, version int, tables []*published) error {
	if len(tables) == 0 {
		return nil
	}
	byOID := map[string]*published{}
	var oids []string
	for _, t := range tables {
		oid := strconv.FormatUint(uint64(t.rel.OID), 10)
		byOID[oid] = t
		oids = append(oids, oid)
	}
	rows, err := c.Query(ctx, `SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, t.typsend <> 0, a.attgenerated <> '',
			coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)
		FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indimmediate AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
		WHERE a.attrelid IN (`+strings.Join(oids, ", ")+`) AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY a.attrelid, a.attnum`)
	if err != nil {
		return pgfail.Failed("look up the columns of the tables", err)
	}
	for _, r := range rows {
		t := byOID[r[0]]
		key, generated := r[6] == "t", r[5] == "t"
		t.hasIdentity = t.hasIdentity || key || t.rel.ReplicaIdentity == ReplicaIdentityFull
		// Before version 18 generated columns are not sent, whatever pg_publication_tables says.
		if !slices.Contains(t.columns, r[1]) || generated && version < 180000 {
			continue
		}
		t.generated = t.generated || generated
		typ, err := strconv.ParseUint(r[2], 10, 32)
		if err != nil {
			return pgfail.Failed("look up the columns of the tables", err)
		}
		mod, _ := strconv.ParseInt(r[3], 10, 32)
		t.rel.Columns = append(t.rel.Columns, Column{Name: r[1], Key: key || t.rel.ReplicaIdentity == ReplicaIdentityFull, TypeOID: uint32(typ), TypeMod: int32(mod)})
		t.binary = append(t.binary, r[4] == "t")
	}
	return nil
}

// checkColumns fails for tables without what tells rows apart, if that is asked for.
func checkColumns(tables []*published, keys bool) error {
	var without []string
	for _, t := range tables {
		if keys && !t.hasIdentity {
			without = append(without, t.rel.String())
		}
	}
	if without == nil {
		return nil
	}
	return &Error{Kind: ErrTableKey, What: "tables without a replica identity: " + strings.Join(without, ", "),
		Advice: "give them a primary key or another REPLICA IDENTITY, leave them out of the publications, or do without WithSnapshotKeys"}
}

func columnTypes(tables []*published) (all []uint32) {
	for _, t := range tables {
		all = append(all, t.rel.typeOIDs()...)
	}
	return all
}

// source is what the workers need of it.
func (t *published) source(binary bool) *source {
	src := &source{rel: t.rel, where: t.where, generated: t.generated}
	for i, col := range t.rel.Columns {
		name := pgsql.Quoted(col.Name)
		if binary && !t.binary[i] {
			name += "::pg_catalog.text" // as pgoutput does with a type that has no binary format
			if src.text == nil {
				src.text = make([]bool, len(t.rel.Columns))
			}
			src.text[i] = true
		}
		src.columns = append(src.columns, name)
	}
	return src
}
