package walchan

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/internal/value"
)

// walBySQL gets messages from a real server without a stream: by SQL functions, which run the output plugin in the session.
type walBySQL struct {
	conn      *pgx.Conn
	types     *value.Types
	relations map[uint32]*Relation
	deaf      bool // to relations that are announced again, as they are by each call of the SQL function
}

// newWAL runs ddl in a database of its own and makes a slot and a publication for all tables.
func newWAL(t *testing.T, ddl ...string) *walBySQL {
	t.Helper()
	db := pgtest.Database(t)
	conn := pgtest.Connect(t, db.DSN())
	w := &walBySQL{conn: conn, types: value.NewTypes(), relations: map[uint32]*Relation{}}
	w.exec(t, ddl...)
	w.exec(t, "CREATE PUBLICATION p FOR ALL TABLES",
		fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", db.Name))
	return w
}

func (w *walBySQL) exec(t *testing.T, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := w.conn.Exec(t.Context(), s, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// query returns the first column of all rows, which must be text.
func (w *walBySQL) query(t *testing.T, sql string) []string {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// changes runs sql and returns the rows' messages. options are further options of pgoutput, names and values in turn.
func (w *walBySQL) changes(t *testing.T, sql string, options ...string) []Message {
	t.Helper()
	w.exec(t, sql)
	return w.decode(t, w.raw(t, "get", options...))
}

// raw gets (or peeks) pgoutput's messages.
func (w *walBySQL) raw(t *testing.T, verb string, options ...string) [][]byte {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), "SELECT data FROM pg_logical_slot_"+verb+"_binary_changes("+
		"current_database(), NULL, NULL, VARIADIC $1)",
		append([]string{"proto_version", "1", "publication_names", "p"}, options...))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (w *walBySQL) decode(t *testing.T, raw [][]byte) (msgs []Message) {
	t.Helper()
	var d pgoutput.Decoder
	kinds := map[byte]Kind{pgoutput.Insert: Insert, pgoutput.Update: Update, pgoutput.Delete: Delete}
	for _, b := range raw {
		ev, err := d.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		switch ev.Type {
		case pgoutput.Relation:
			w.announce(t, ev)
		case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
			m := Message{Kind: kinds[ev.Type], Relation: w.relations[ev.OID], data: seal(ev.Block), split: ev.Split}
			if ev.N != len(m.Relation.Columns) {
				t.Fatalf("%d values for %d columns", ev.N, len(m.Relation.Columns))
			}
			msgs = append(msgs, m)
		}
	}
	return msgs
}

// announce does what a stream does with a Relation message.
func (w *walBySQL) announce(t *testing.T, ev *pgoutput.Event) {
	t.Helper()
	if w.deaf && w.relations[ev.OID] != nil {
		return
	}
	rel := &Relation{OID: ev.OID, Schema: ev.Schema, Name: ev.Name, ReplicaIdentity: ReplicaIdentity(ev.Ident)}
	for _, c := range ev.Columns {
		rel.Columns = append(rel.Columns, Column{Name: c.Name, Key: c.Key, TypeOID: c.TypeOID, TypeMod: c.TypeMod})
	}
	if w.relations[ev.OID] != nil {
		w.types.Forget()
	}
	w.lookup(t, w.types.Unknown(rel.typeOIDs()))
	rel.bind(w.types)
	w.relations[ev.OID] = rel
}

func (w *walBySQL) lookup(t *testing.T, oids []uint32) {
	t.Helper()
	if len(oids) == 0 {
		return
	}
	conn := pgtest.Connect(t, w.conn.Config().ConnString()).PgConn()
	if err := w.types.Lookup(t.Context(), conn, oids); err != nil {
		t.Fatal(err)
	}
}
