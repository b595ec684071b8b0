package admin_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, nil)) }

// connect is Connect with a log in the test's output. The test's end closes the Conn.
func connect(t *testing.T, dsn string, opts ...admin.Option) *admin.Conn {
	t.Helper()
	c, err := admin.Connect(t.Context(), dsn, append([]admin.Option{admin.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil)))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// check wants an error of a kind, with these words in it.
func check(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%v is not %v", err, kind)
		return
	}
	if missing := slices.DeleteFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) }); len(missing) > 0 {
		t.Errorf("%v says nothing of %q", err, missing)
	}
}

// slotNamed finds a slot in the list; nil if it is not there.
func slotNamed(t *testing.T, c *admin.Conn, name string) *admin.Slot {
	t.Helper()
	all, err := c.Slots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return &s
		}
	}
	return nil
}

// published returns the tables of a publication, by a comma.
func published(t *testing.T, db pgtest.DB, name string) string {
	t.Helper()
	return db.Query(t, "SELECT coalesce(string_agg(format('%I.%I', schemaname, tablename), ',' ORDER BY schemaname COLLATE \"C\", tablename COLLATE \"C\"), '') FROM pg_publication_tables WHERE pubname = '"+name+"'")
}

// waitFor asks until the answer is yes.
func waitFor(t *testing.T, yes func() bool, said fmt.Stringer) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !yes(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come: %s", said)
		}
	}
}
