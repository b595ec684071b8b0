package walchantest

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/walchan/walchan/internal/fakewal"
)

// Table is a table of the server. Two of the same name are one table, altered in between.
type Table struct{ rel fakewal.Relation }

// NewTable describes a table, whose columns are written as in CREATE TABLE:
//
//	walchantest.NewTable("shop.orders", "id bigint primary key", "status text", "tags text[]")
//
// Without a schema it is in public. Types are built-in ones; for others, such as enums, text will do, for it is how their
// values arrive. A primary key of several columns is written at each of them.
func NewTable(name string, columns ...string) *Table {
	schema, table, ok := strings.Cut(name, ".")
	if !ok {
		schema, table = "public", name
	}
	h := fnv.New32a()
	h.Write([]byte(schema + "." + table))
	t := &Table{fakewal.Relation{OID: h.Sum32() | 1<<31, Schema: schema, Name: table, Identity: 'd'}}
	for _, c := range columns {
		t.rel.Columns = append(t.rel.Columns, column(c))
	}
	return t
}

// ReplicaIdentityFull has old rows come whole. It changes t, and returns it.
func (t *Table) ReplicaIdentityFull() *Table {
	t.rel.Identity = 'f'
	for i := range t.rel.Columns {
		t.rel.Columns[i].Key = true // so says the server (logicalrep_write_attrs in src/backend/replication/logical/proto.c)
	}
	return t
}

func column(definition string) fakewal.Column {
	name, rest, _ := strings.Cut(strings.TrimSpace(definition), " ")
	rest = strings.ToLower(strings.Join(strings.Fields(rest), " "))
	typ, key := strings.CutSuffix(rest, " primary key")
	oid, ok := typeOID(typ)
	if !ok {
		panic(fmt.Sprintf("walchantest: column %q: no built-in type %q; for other types text will do", definition, typ))
	}
	return fakewal.Column{Name: name, Key: key, Type: oid, Mod: -1}
}

// typeOID finds a type by its name in SQL or in pg_type.
func typeOID(name string) (uint32, bool) {
	name, array := strings.CutSuffix(name, "[]")
	if open, closing := strings.Index(name, "("), strings.Index(name, ")"); 0 < open && open < closing {
		name = strings.TrimSpace(name[:open]) + name[closing+1:] // a modifier, as in numeric(10,2)
	}
	if short, ok := shortNames[name]; ok {
		name = short
	}
	if array {
		name = "_" + name
	}
	t, ok := types.TypeForName(name)
	if !ok {
		return 0, false
	}
	return t.OID, true
}

var shortNames = map[string]string{
	"bigint":                      "int8",
	"bit varying":                 "varbit",
	"boolean":                     "bool",
	"char":                        "bpchar",
	"character":                   "bpchar",
	"character varying":           "varchar",
	"decimal":                     "numeric",
	"double precision":            "float8",
	"int":                         "int4",
	"integer":                     "int4",
	"real":                        "float4",
	"smallint":                    "int2",
	"time without time zone":      "time",
	"timestamp with time zone":    "timestamptz",
	"timestamp without time zone": "timestamp",
}

func (t *Table) name() string { return t.rel.Schema + "." + t.rel.Name }

func (t *Table) full() bool { return t.rel.Identity == 'f' }

// identity is the kind of an old row.
func (t *Table) identity() byte {
	if t.full() {
		return 'O'
	}
	return 'K'
}

// keys returns how many columns the replica identity has.
func (t *Table) keys() (n int) {
	for _, c := range t.rel.Columns {
		if c.Key {
			n++
		}
	}
	return n
}

func (t *Table) needIdentity(what string) {
	if t.keys() == 0 {
		panic(fmt.Sprintf("walchantest: PostgreSQL refuses to %s %s while it is published, for it has no replica identity: write primary key, or use ReplicaIdentityFull", what, t.name()))
	}
}

// row encodes a whole row.
func (t *Table) row(values []any) []any {
	if len(values) != len(t.rel.Columns) {
		panic(fmt.Sprintf("walchantest: %d values for the %d columns of %s", len(values), len(t.rel.Columns), t.name()))
	}
	row := make([]any, len(values))
	for i, v := range values {
		row[i] = t.encode(i, v)
	}
	return row
}

// oldRow encodes an old row, of which only the key may be given: the other columns are not sent anyway.
func (t *Table) oldRow(values []any) []any {
	if len(values) == t.keys() && !t.full() {
		values = t.spread(values)
	}
	row := t.row(values)
	if slices.Contains(row, Unchanged) {
		panic(fmt.Sprintf("walchantest: an old row of %s is whole: it has no Unchanged", t.name()))
	}
	return row
}

// spread puts the values of a key where its columns are.
func (t *Table) spread(key []any) []any {
	row := make([]any, len(t.rel.Columns))
	for i, c := range t.rel.Columns {
		if c.Key {
			row[i], key = key[0], key[1:]
		}
	}
	return row
}

// sent returns what the server sends of an old row: the replica identity, and null for the other columns.
func (t *Table) sent(old []any) []any {
	row := make([]any, len(old))
	for i, c := range t.rel.Columns {
		if c.Key {
			row[i] = old[i]
		}
	}
	return row
}

// keyChanges says whether an update changes the replica identity.
func (t *Table) keyChanges(old, row []any) bool {
	for i, c := range t.rel.Columns {
		if c.Key && row[i] != Unchanged && old[i] != row[i] {
			return true
		}
	}
	return false
}
