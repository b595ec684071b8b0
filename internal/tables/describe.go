package tables

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/walerr"
)

// fullIdentity is REPLICA IDENTITY FULL.
const fullIdentity = 'f'

// Describe makes the definitions as the server will describe them in the stream (logicalrep_write_attrs in
// src/backend/replication/logical/proto.c).
func Describe(ctx context.Context, c *session.Conn, version int, tables []*Published) error {
	if len(tables) == 0 {
		return nil
	}
	byOID := map[string]*Published{}
	var oids []string
	for _, t := range tables {
		oid := strconv.FormatUint(uint64(t.Table.OID), 10)
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
		t.hasIdentity = t.hasIdentity || key || t.Table.Identity == fullIdentity
		// Before version 18 generated columns are not sent, whatever pg_publication_tables says.
		if !slices.Contains(t.columns, r[1]) || generated && version < 180000 {
			continue
		}
		t.Generated = t.Generated || generated
		typ, err := strconv.ParseUint(r[2], 10, 32)
		if err != nil {
			return pgfail.Failed("look up the columns of the tables", err)
		}
		mod, _ := strconv.ParseInt(r[3], 10, 32)
		t.Table.Columns = append(t.Table.Columns, attribute{Name: r[1], Key: key || t.Table.Identity == fullIdentity, TypeOID: uint32(typ), TypeMod: int32(mod)})
		t.Binary = append(t.Binary, r[4] == "t")
	}
	return nil
}

// CheckKeys fails for tables without what tells rows apart, if that is asked for.
func CheckKeys(tables []*Published, keys bool) error {
	var without []string
	for _, t := range tables {
		if keys && !t.hasIdentity {
			without = append(without, t.Table.String())
		}
	}
	if without == nil {
		return nil
	}
	return &walerr.Error{Kind: walerr.TableKey, What: "tables without a replica identity: " + strings.Join(without, ", "),
		Advice: "give them a primary key or another REPLICA IDENTITY, leave them out of the publications, or do without WithSnapshotKeys"}
}

func ColumnTypes(tables []*Published) (all []uint32) {
	for _, t := range tables {
		all = append(all, t.Table.Types()...)
	}
	return all
}
