package value

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

// Types is what a stream knows of PostgreSQL's types. The built-in ones it knows from the start; the others are looked up
// in the catalogue when a relation is announced that has them, since converting a value never queries.
//
// unknown, forget, lookup and stale are for the one who announces relations, lookup from whatever goroutine it likes. Rows
// convert meanwhile, in any number of goroutines: they see what is known as one immutable value, replaced by lookup.
type Types struct {
	Known atomic.Pointer[Known]

	mu        sync.Mutex
	Specs     map[uint32]Spec     // what the catalogue said, all look-ups together
	forgotten map[uint32]struct{} // to be looked up again
}

// Spec is what the catalogue says of a type.
type Spec struct {
	Kind     byte   // pg_type.typtype, but 'a' for an array
	Name     string // quoted where it must be; "" for an array, which is called after its elements
	category byte   // pg_type.typcategory
	Delim    byte   // between the elements of an array
	Part     uint32 // base type, element, subtype or range
	Attrs    []Attribute
	Ever     int // attributes there ever were, dropped ones too
}

type Attribute struct {
	Name string
	OID  uint32
}

func NewTypes() *Types {
	t := &Types{Specs: map[uint32]Spec{}, forgotten: map[uint32]struct{}{}}
	t.Known.Store(NewKnown(nil))
	return t
}

// Unknown returns those of oids that are not built in and were never looked up, or are forgotten.
func (t *Types) Unknown(all []uint32) (oids []uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := map[uint32]bool{}
	k := t.Known.Load()
	for _, oid := range all {
		_, forgotten := t.forgotten[oid]
		if seen[oid] || k.has(oid) && !forgotten {
			continue
		}
		seen[oid] = true
		oids = append(oids, oid)
	}
	return oids
}

// Forget makes all types that were looked up unknown, so that they are looked up again; until then they are converted as
// before. It is for when a relation is announced again, in the stream or on a new connection: that tells nothing of its
// Types (ALTER TYPE announces no relation), but it is an occasion.
func (t *Types) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for oid := range t.Specs {
		t.forgotten[oid] = struct{}{}
	}
}

// Stale returns the composite types that a row has shown to have got attributes since they were looked up. Until they are
// looked up again their values are text.
func (t *Types) Stale() []uint32 {
	var oids []uint32
	for oid, ty := range t.Known.Load().types {
		if ty.form == formComposite && ty.composite.stale.Load() {
			oids = append(oids, oid)
		}
	}
	return oids
}

// Name returns the name of a type as format_type has it, without modifier and always with the schema unless that is
// pg_catalog: "integer", "shop.status[]". A type that is not known is called by its number.
func (t *Types) Name(oid uint32) string { return t.Known.Load().typ(oid).name }

// Conversion is how the values of the rows of a table are converted, with what t knows, now and later.
func (t *Types) Conversion(columns []Column) *Conversion {
	return &Conversion{types: t, columns: columns}
}

// Lookup asks the catalogue for the types oids and all they are made of. A type that is no longer there, for the stream
// may be behind, stays what it was known as, or else is only text.
func (t *Types) Lookup(ctx context.Context, conn *pgconn.PgConn, oids []uint32) error {
	found, err := queryTypes(ctx, conn, oids)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for oid := range found {
		delete(t.forgotten, oid)
	}
	for _, oid := range oids {
		delete(t.forgotten, oid)
		if _, ok := t.Specs[oid]; !ok {
			t.Specs[oid] = Spec{Kind: 'b', Name: strconv.FormatUint(uint64(oid), 10)}
		}
	}
	maps.Copy(t.Specs, found)
	t.Known.Store(NewKnown(t.Specs))
	return nil
}

// typesQuery returns a row for each type that the given ones are made of, and for a composite type one for each attribute.
//
// What a type is made of: pg_type.typbasetype (domain), typelem (array; such as name and int2vector have one too, hence
// the test of typoutput, which domains in turn have from their base type), pg_range (range: subtype, multirange: range),
// pg_attribute (composite).
const typesQuery = `
WITH RECURSIVE wanted(oid) AS (
	SELECT pg_catalog.unnest($1::pg_catalog.oid[])
	UNION
	SELECT part.oid
	FROM wanted JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
	CROSS JOIN LATERAL (
		SELECT t.typbasetype WHERE t.typtype = 'd'
		UNION ALL SELECT t.typelem WHERE t.typtype = 'b' AND t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc
		UNION ALL SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid = t.oid
		UNION ALL SELECT rngtypid FROM pg_catalog.pg_range WHERE rngmultitypid = t.oid
		UNION ALL SELECT atttypid FROM pg_catalog.pg_attribute
			WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
	) part(oid)
)
SELECT t.oid,
	CASE WHEN t.typtype = 'b' AND t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc THEN 'a' ELSE t.typtype END,
	CASE WHEN n.nspname = 'pg_catalog' THEN pg_catalog.format_type(t.oid, NULL)
		ELSE pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) END,
	t.typcategory,
	t.typdelim,
	COALESCE(r.rngsubtype, m.rngtypid, NULLIF(t.typbasetype, 0), t.typelem),
	a.attname,
	a.atttypid,
	a.attisdropped
FROM wanted JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
LEFT JOIN pg_catalog.pg_range m ON m.rngmultitypid = t.oid
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
ORDER BY t.oid, a.attnum`

func queryTypes(ctx context.Context, conn *pgconn.PgConn, oids []uint32) (map[uint32]Spec, error) {
	list := make([]string, len(oids))
	for i, oid := range oids {
		list[i] = strconv.FormatUint(uint64(oid), 10)
	}
	arg := []byte("{" + strings.Join(list, ",") + "}")
	result := conn.ExecParams(ctx, typesQuery, [][]byte{arg}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("look up types: %w", result.Err)
	}
	found := map[uint32]Spec{}
	for _, row := range result.Rows {
		oid, s, err := readSpec(row, found)
		if err != nil {
			return nil, fmt.Errorf("look up types: %w", err)
		}
		found[oid] = s
	}
	return found, nil
}

// readSpec returns what found has of the row's type, with what the row adds.
func readSpec(row [][]byte, found map[uint32]Spec) (uint32, Spec, error) {
	oid, err := strconv.ParseUint(string(row[0]), 10, 32)
	if err != nil {
		return 0, Spec{}, err
	}
	part, err := strconv.ParseUint(string(row[5]), 10, 32)
	if err != nil {
		return 0, Spec{}, err
	}
	s, ok := found[uint32(oid)]
	if !ok {
		s = Spec{Kind: row[1][0], Name: string(row[2]), category: row[3][0], Delim: row[4][0], Part: uint32(part)}
	}
	if row[6] == nil {
		return uint32(oid), s, nil
	}
	s.Ever++
	if string(row[8]) == "t" {
		return uint32(oid), s, nil
	}
	attr, err := strconv.ParseUint(string(row[7]), 10, 32)
	s.Attrs = append(s.Attrs, Attribute{string(row[6]), uint32(attr)})
	return uint32(oid), s, err
}
