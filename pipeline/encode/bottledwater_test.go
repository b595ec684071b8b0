package encode_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
)

func TestBottledwater(t *testing.T) {
	db := source(t)
	db.Exec(t,
		"CREATE TABLE demo AS SELECT * FROM generate_series(1, 2) AS id",
		"ALTER TABLE demo ADD PRIMARY KEY (id)", // nothing is sent
		"UPDATE demo SET id = 3 WHERE id = 2",
		"UPDATE demo SET id = 1 WHERE id = 1",
		"DELETE FROM demo WHERE id = 1",
		`CREATE TABLE "a ""b""
" (y int, x text, PRIMARY KEY (y, x), big text)`,
		`ALTER TABLE "a ""b""
" ALTER big SET STORAGE EXTERNAL`,
		`INSERT INTO "a ""b""
" VALUES (1, E'\\"\n', repeat('x', 5000))`,
		`UPDATE "a ""b""
" SET y = 2`,
		`TRUNCATE "a ""b""
", demo`,
	)
	ms := changes(t, db)
	got := lines(t, encode.Bottledwater{Database: db.Name}, ms)
	var want []string
	for _, m := range ms {
		pos := fmt.Sprintf(`"wal_pos": "%X/%X", "dbname": "%s"`, uint32(m.LSN>>32), uint32(m.LSN), db.Name)
		xid := m.Tx.XID
		line := func(format string, args ...any) { want = append(want, fmt.Sprintf(format, args...)) }
		const odd = `"relname": "a \"b\"\n", "relnamespace": "public", "key": ["y", "x"]`
		const demo = `"relname": "demo", "relnamespace": "public"`
		switch {
		case m.Kind == walchan.Begin:
			line(`{ "command": "BEGIN", "xid": %d, "dbname": "%s" }`, xid, db.Name)
		case m.Kind == walchan.Commit:
			line(`{ "command": "COMMIT", "xid": %d, "dbname": "%s" }`, xid, db.Name)
		case m.Kind == walchan.Truncate:
			tables := []string{odd, demo + `, "key": ["id"]`}
			if first, _, _ := m.Truncated(); first[0].Name == "demo" {
				tables[0], tables[1] = tables[1], tables[0]
			}
			for _, table := range tables {
				line(`{ "command": "TRUNCATE", "xid": %d, %s, %s }`, xid, pos, table)
			}
		case m.Relation.Name != "demo" && m.Kind == walchan.Insert:
			line(`{ "command": "INSERT", "xid": %d, %s, %s, "newtuple": {"y":1,"x":"\\\"\n","big":"%s"} }`, xid, pos, odd, strings.Repeat("x", 5000))
		case m.Relation.Name != "demo":
			line(`{ "command": "UPDATE", "xid": %d, %s, %s, "newtuple": {"y":2,"x":"\\\"\n"}, "oldtuple": {"y":1,"x":"\\\"\n"} }`, xid, pos, odd)
		case m.Kind == walchan.Insert:
			line(`{ "command": "INSERT", "xid": %d, %s, %s, "newtuple": {"id":%s} }`, xid, pos, demo, m.New().Text(0))
		case m.Kind == walchan.Update && m.New().Text(0) == "3":
			line(`{ "command": "UPDATE", "xid": %d, %s, %s, "key": ["id"], "newtuple": {"id":3}, "oldtuple": {"id":2} }`, xid, pos, demo)
		case m.Kind == walchan.Update:
			line(`{ "command": "UPDATE", "xid": %d, %s, %s, "key": ["id"], "newtuple": {"id":1} }`, xid, pos, demo)
		case m.Kind == walchan.Delete:
			line(`{ "command": "DELETE", "xid": %d, %s, %s, "key": ["id"], "oldtuple": {"id":1} }`, xid, pos, demo)
		}
	}
	if len(ms) != 22 {
		t.Errorf("%d messages", len(ms))
	}
	compare(t, got, want)
}

func TestBottledwaterTable(t *testing.T) {
	table := encode.Table{Schema: "shop", Name: `a"b`, Key: []string{"x", "y"}, Attributes: []encode.Attribute{
		{Name: "x", Type: "numeric(10,2)", NotNull: true, Default: `'"'::text`}, {Name: "y", Type: "integer"}}}
	want := `{ "relname": "a\"b", "relnamespace": "shop", "key": ["x", "y"], "attributes": [` +
		`{ "name": "x", "type": "numeric(10,2)", "notnull": true, "default": "'\"'::text" }, { "name": "y", "type": "integer", "notnull": false }] }`
	if got := string(table.AppendJSON(nil)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := string(encode.Table{Schema: "s", Name: "t"}.AppendJSON(nil)); got != `{ "relname": "t", "relnamespace": "s", "attributes": [] }` {
		t.Errorf("got %s", got)
	}
}
