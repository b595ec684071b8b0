package walchan

import (
	"reflect"
	"testing"

	"github.com/walchan/walchan/internal/feed"
	"github.com/walchan/walchan/internal/ledger"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
)

// A row walks session, txn, feed, deliver, and nothing on its way calls back. None of these functions takes a function or an interface, and
// no feed leads to one. Where there is none, the packages below the root cannot know of the stream.
func TestRowCallsNobodyBack(t *testing.T) {
	for _, f := range []any{(*session.Conn).Next, (*session.Conn).Fill, (*pgoutput.Decoder).Decode, (*txn.Assembler).Next, (*ledger.Ledger).Next, (*ledger.Ledger).Delivered, (*ledger.Ledger).Mark, (*ledger.Ledger).MarkBefore,
		feed.Feed.Next, (*feed.Changes).Next, (*feed.Plugin).Next, (*feed.Log).Next} {
		typ := reflect.TypeOf(f)
		for i := 1; i < typ.NumIn(); i++ { // 0 is what it belongs to
			refuseCallbacks(t, typ.String(), typ.In(i), map[reflect.Type]bool{})
		}
	}
	for _, x := range []any{txn.Assembler{}, pgoutput.Decoder{}, feed.Turn{}, feed.Item{}, feed.Changes{}, feed.Plugin{}, feed.Log{}} {
		refuseCallbacks(t, reflect.TypeOf(x).String(), reflect.TypeOf(x), map[reflect.Type]bool{})
	}
}

// refuseCallbacks looks for functions and interfaces in all that a value leads to within the module.
func refuseCallbacks(t *testing.T, where string, typ reflect.Type, seen map[reflect.Type]bool) {
	t.Helper()
	if seen[typ] {
		return
	}
	seen[typ] = true
	switch typ.Kind() {
	case reflect.Func:
		t.Errorf("%s leads to a function, %s", where, typ)
	case reflect.Interface:
		if typ.NumMethod() > 0 {
			t.Errorf("%s leads to an interface, %s", where, typ)
		}
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
		refuseCallbacks(t, where+" → "+typ.String(), typ.Elem(), seen)
	case reflect.Struct:
		if typ.PkgPath() == "" || len(typ.PkgPath()) < len(module) || typ.PkgPath()[:len(module)] != module {
			return // not ours
		}
		for i := range typ.NumField() {
			refuseCallbacks(t, where+"."+typ.Field(i).Name, typ.Field(i).Type, seen)
		}
	}
}

const module = "github.com/walchan/walchan"
