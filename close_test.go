package walchan_test

import (
	"testing"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// The slot is free when Close returns.
func TestCloseReleasesSlot(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	for range 50 {
		s, err := walchan.Subscribe(t.Context(), db.DSN(), walchan.WithSlot(db.Name), walchan.WithCreateSlot(), walchan.WithPublication("p"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
