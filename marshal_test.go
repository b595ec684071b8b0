package walchan

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/txn"
)

func TestMessageMarshalJSON(t *testing.T) {
	rel := secretRelation()
	full := relation("Full", col{"id", pgtype.Int4OID, true}, col{"note", pgtype.TextOID, true})
	committed := time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	tx := &Tx{XID: 689, CommitLSN: 0x16C39F0, CommitTime: committed}
	prepared := &Tx{XID: 690, GID: "g", CommitLSN: 0x16C39F0, CommitTime: committed, Origin: "node", Redelivered: true}
	in := func(tx *Tx, ordinal uint32, m Message) Message {
		m.Tx, m.Ordinal, m.LSN = tx, ordinal, 0x16C3900
		return m
	}
	read := message(t, Insert, rel, tuple('N', text("1"), null))
	read.Kind, read.LSN = Read, 0x100
	const (
		at       = `"xid":689,"position":"0/16C39F0:2","time":"2026-01-02T03:04:05.6Z"`
		accounts = `"schema":"public","table":"accounts",`
	)
	seen := map[Kind]bool{}
	for _, x := range []struct {
		m    Message
		want string
	}{
		{Message{}, `null`},
		{in(tx, 2, message(t, Insert, rel, tuple('N', text("1"), text(`"a"<&>`+"\n")))), `{"kind":"insert",` + accounts + at + `,"new":{"id":1,"note":"\"a\"<&>\n"}}`},
		{in(tx, 2, message(t, Update, rel, tuple('N', text("1"), unchanged))), `{"kind":"update",` + accounts + at + `,"new":{"id":1}}`},
		{in(tx, 2, message(t, Update, rel, tuple('K', text("1"), null), tuple('N', text("2"), null))),
			`{"kind":"update",` + accounts + at + `,"old":{"id":1},"new":{"id":2,"note":null}}`},
		{in(tx, 2, message(t, Update, full, tuple('O', text("1"), text("a")), tuple('N', text("1"), text("b")))),
			`{"kind":"update","schema":"public","table":"Full",` + at + `,"old":{"id":1,"note":"a"},"new":{"id":1,"note":"b"}}`},
		{in(prepared, 3, message(t, Delete, rel, tuple('K', text("1"), null))), `{"kind":"delete",` + accounts +
			`"xid":690,"position":"0/16C39F0:3","time":"2026-01-02T03:04:05.6Z","gid":"g","origin":"node","redelivered":true,"old":{"id":1}}`},
		{in(tx, 2, Message{Kind: Truncate, ext: &feed.Truncation{Tables: []*txn.Table{{Owner: rel}, {Owner: full}}}}),
			`{"kind":"truncate","tables":["public.accounts","public.\"Full\""],` + at + `}`},
		{in(tx, 2, Message{Kind: Truncate, ext: &feed.Truncation{Tables: []*txn.Table{{Owner: rel}}, Cascade: true, Restart: true}}),
			`{"kind":"truncate","tables":["public.accounts"],"cascade":true,"restart_identity":true,` + at + `}`},
		{in(tx, 2, Message{Kind: LogicalMessage, data: seal("say"), ext: &feed.Emitted{Prefix: "outbox"}}), `{"kind":"message",` + at + `,"prefix":"outbox","payload":"say"}`},
		{Message{Kind: LogicalMessage, LSN: 0x16_0000_0001, data: seal("\xff\x00"), ext: &feed.Emitted{Prefix: "p"}},
			`{"kind":"message","position":"16/1:0","prefix":"p","payload_base64":"/wA="}`},
		{Message{Kind: LogicalMessage, LSN: 1, ext: &feed.Emitted{}}, `{"kind":"message","position":"0/1:0","prefix":"","payload":""}`},
		{in(tx, 2, Message{Kind: Begin}), `{"kind":"begin",` + at + `}`},
		{in(tx, 2, Message{Kind: Commit, ext: LSN(0x16C3A20)}), `{"kind":"commit",` + at + `,"end":"0/16C3A20"}`},
		{Message{Kind: Raw, LSN: 0x10, data: seal("BEGIN 1")}, `{"kind":"raw","lsn":"0/10","payload":"BEGIN 1"}`},
		{in(tx, 2, Message{Kind: Prepare, ext: LSN(0x16C3A20)}), `{"kind":"prepare",` + at + `,"end":"0/16C3A20"}`},
		{in(tx, 2, Message{Kind: CommitPrepared, ext: LSN(0x16C3A20)}), `{"kind":"commit_prepared",` + at + `,"end":"0/16C3A20"}`},
		{in(tx, 0, Message{Kind: RollbackPrepared, ext: &resume.Place{}}),
			`{"kind":"rollback_prepared","xid":689,"position":"0/16C39F0:0","time":"2026-01-02T03:04:05.6Z","end":"0/16C3900"}`},
		{Message{Kind: WAL, LSN: 0x10, data: seal("\xd1\x16"), ext: &feed.Piece{Timeline: 3}},
			`{"kind":"wal","lsn":"0/10","end":"0/12","timeline":3,"payload_base64":"0RY="}`},
		{Message{Kind: TimelineHistory, LSN: 0x10, data: seal("1\t0/10\tno recovery target specified\n"), ext: &feed.Piece{Timeline: 2}},
			`{"kind":"timeline_history","lsn":"0/10","timeline":2,"payload":"1\t0/10\tno recovery target specified\n"}`},
		{Message{Kind: SnapshotBegin, LSN: 0x10, ext: &Snapshot{Tables: []*Relation{rel, full}, Attempt: 2}},
			`{"kind":"snapshot_begin","lsn":"0/10","tables":["public.accounts","public.\"Full\""],"attempt":2}`},
		{read, `{"kind":"read",` + accounts + `"lsn":"0/100","new":{"id":1,"note":null}}`},
		{Message{Kind: SnapshotEnd, LSN: 0x10, ext: &Snapshot{Tables: []*Relation{rel}, Attempt: 1, Among: true}},
			`{"kind":"snapshot_end","lsn":"0/10","tables":["public.accounts"],"attempt":1,"among":true}`},
		{Message{Kind: Progress, LSN: 0x16_B374D848, ext: &resume.Place{}}, `{"kind":"progress","lsn":"16/B374D848"}`},
	} {
		got, err := x.m.MarshalJSON()
		if err != nil || string(got) != x.want {
			t.Errorf("%s is\n%s, %v; want\n%s", x.m, got, err, x.want)
		}
		if _, err := json.Marshal(x.m); err != nil {
			t.Errorf("%s: encoding/json takes it for wrong: %v", x.m, err)
		}
		checkKeys(t, x.m, got)
		seen[x.m.Kind] = true
	}
	for k := Insert; int(k) < len(kindNames); k++ {
		if !seen[k] {
			t.Errorf("the test has no message of the kind %s", k)
		}
	}
}

// checkKeys checks what holds for messages of every kind.
func checkKeys(t *testing.T, m Message, j []byte) {
	t.Helper()
	if m.Kind == 0 {
		return
	}
	var o map[string]any
	if err := json.Unmarshal(j, &o); err != nil {
		t.Error(err)
		return
	}
	for key := range o {
		if !snakeCase.MatchString(strings.TrimSuffix(key, "64")) {
			t.Errorf("%s has the key %q", m, key)
		}
	}
	if o["kind"] != m.Kind.String() || (o["position"] == nil) == (o["lsn"] == nil) || (o["xid"] == nil) != (m.Tx == nil) || (o["time"] == nil) != (m.Tx == nil) {
		t.Errorf("%s is %s", m, j)
	}
	if text, ok := o["position"].(string); ok {
		want, _ := m.Position()
		if p, err := ParsePosition(text); err != nil || p != want {
			t.Errorf("%s has the position %q, %v", m, text, err)
		}
	}
}

func TestMessageMarshalJSONFails(t *testing.T) {
	rel := relation("t", col{"n", pgtype.Int4OID, true})
	for _, m := range []Message{message(t, Insert, rel, tuple('N', bin("x"))), message(t, Delete, rel, tuple('K', bin("x")))} {
		b, err := m.MarshalJSON()
		var e *ColumnError
		if b != nil || !errors.As(err, &e) || e.Column != "n" {
			t.Errorf("%s is %s, %v", m, b, err)
		}
	}
}

func TestStatsMarshalJSON(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, x := range []struct {
		s    Stats
		want string
	}{
		{Stats{}, `{"state":"connecting","delivered":0,"unacked":0,"buffered":0,"lag_bytes":0,"spooled":0,"unproven":false,"reconnects":0,"late_acks":0,` +
			`"oldest_age_seconds":0,"lag_seconds":0}`},
		{Stats{State: StateRetrying, Since: since, Err: errors.New("connection lost"), Attempt: 2, Delay: 1500 * time.Millisecond, Delivered: 3, Unacked: 2,
			Buffered: 1, Received: 0x16_B374D848, Acknowledged: 2, Confirmed: 1, Oldest: 3, OldestAge: time.Minute, LagBytes: 5, Lag: 61 * time.Second, Spooled: 6,
			Unproven: true, Reconnects: 7, LateAcks: 8, Snapshot: []TableProgress{{"public.t", 1, 2, 3, 4, true}}},
			`{"state":"retrying","since":"2026-01-02T03:04:05Z","attempt":2,"delivered":3,"unacked":2,"buffered":1,"lag_bytes":5,"spooled":6,"unproven":true,` +
				`"reconnects":7,"late_acks":8,"snapshot":[{"table":"public.t","rows":1,"estimated_rows":2,"bytes":3,"estimated_bytes":4,"done":true}],` +
				`"error":"connection lost","delay_seconds":1.5,"received":"16/B374D848","acknowledged":"0/2","confirmed":"0/1","oldest":"0/3",` +
				`"oldest_age_seconds":60,"lag_seconds":61}`},
	} {
		got, err := json.Marshal(x.s)
		if err != nil || string(got) != x.want {
			t.Errorf("the statistics are\n%s, %v; want\n%s", got, err, x.want)
		}
		v := reflect.ValueOf(x.s)
		for i := range v.NumField() {
			if x.s.State == StateRetrying && v.Field(i).IsZero() {
				t.Errorf("the test gives no %s", v.Type().Field(i).Name)
			}
		}
	}
	// Every field is there.
	var o map[string]any
	if j, err := json.Marshal(Stats{Err: ErrClosed, Attempt: 1, Delay: 1, Since: since, Received: 1, Acknowledged: 1, Confirmed: 1, Oldest: 1, Snapshot: make([]TableProgress, 1)}); err != nil ||
		json.Unmarshal(j, &o) != nil || len(o) != reflect.TypeFor[Stats]().NumField() {
		t.Errorf("%d of %d fields are marshalled: %v", len(o), reflect.TypeFor[Stats]().NumField(), err)
	}
	for key := range o {
		if !snakeCase.MatchString(key) {
			t.Errorf("the statistics have the key %q", key)
		}
	}
}

func TestMarshalJSON(t *testing.T) {
	rel := secretRelation()
	rel.Columns[0].TypeName, rel.Columns[1].TypeName = "integer", "text"
	const table = `{"oid":1,"schema":"public","name":"accounts","replica_identity":"default","columns":[` +
		`{"name":"id","key":true,"type_oid":23,"type_mod":-1,"type_name":"integer"},{"name":"note","key":false,"type_oid":25,"type_mod":-1,"type_name":"text"}]}`
	for _, x := range []struct {
		v    any
		want string
	}{
		{Tx{XID: 7, CommitLSN: 0x16_00000001, CommitTime: time.Unix(0, 0).UTC()}, `{"xid":7,"commit_time":"1970-01-01T00:00:00Z","commit_lsn":"16/1"}`},
		{&Tx{XID: 7, GID: "g", Origin: "o", Redelivered: true}, `{"xid":7,"gid":"g","commit_time":"0001-01-01T00:00:00Z","origin":"o","redelivered":true,"commit_lsn":"0/0"}`},
		{rel, table},
		{&Snapshot{Tables: []*Relation{rel}, Attempt: 1, Among: true}, `{"tables":[` + table + `],"attempt":1,"among":true}`},
		{Source{"1", "shop", "orders"}, `{"system_id":"1","database":"shop","slot":"orders"}`},
		{Position{0x16_B374D848, 3}, `"16/B374D848:3"`},
		{Checkpoint{}, `"none"`},
		{Row{}, `null`},
	} {
		if got, err := json.Marshal(x.v); err != nil || string(got) != x.want {
			t.Errorf("%T is\n%s, %v; want\n%s", x.v, got, err, x.want)
		}
	}
}
