package walchan_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

func serverVersion(t *testing.T, db pgtest.DB) int {
	t.Helper()
	n, err := strconv.Atoi(db.Query(t, "SHOW server_version_num"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// missesPublication wants the stream to end for that reason, without another message.
func missesPublication(t *testing.T, s *walchan.Stream, advice string) {
	t.Helper()
	if ms := rest(t, s); len(ms) > 0 {
		t.Errorf("row %s came", idsOf(ms))
	}
	if err := s.Err(); !errors.Is(err, walchan.ErrPublicationMissing) || !strings.Contains(err.Error(), advice) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

// A publication is dropped and made again under a stream: it ends, and a later one does, until the user says otherwise.
func TestPublicationThatWasDroppedForAWhile(t *testing.T) {
	for _, own := range []bool{false, true} { // the user's own OnNotice
		t.Run(strconv.FormatBool(own), func(t *testing.T) {
			db := newSource(t)
			notices := walchan.WithConnect(func(_ context.Context, cfg *pgconn.Config) error {
				if own {
					cfg.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
				}
				return nil
			})
			s := open(t, t.Context(), db, notices)
			insert(t, db, 1, 1, 1)
			ackAll(s, take(t, s, 1))
			flush(t, s)
			db.Exec(t, "DROP PUBLICATION p")
			insert(t, db, 2, 1, 1)
			gap := walEnd(t, db) // the end of its commit, or later
			missesPublication(t, s, `no such publication: "p"`)
			db.Exec(t, "CREATE PUBLICATION p FOR TABLE t")
			made := walEnd(t, db)
			insert(t, db, 4, 1, 1)
			for range 2 {
				missesPublication(t, open(t, t.Context(), db, notices), "exists now, but not yet at the changes after")
			}
			if at := slotAt(t, db); at >= gap {
				t.Errorf("%s is confirmed, and the publication was missing before %s", at, gap)
			}
			if serverVersion(t, db) < 180000 {
				db.Exec(t, "SELECT pg_replication_slot_advance('"+db.Name+"', '"+made.String()+"')")
				s = open(t, t.Context(), db)
			} else {
				s = open(t, t.Context(), db, walchan.WithSkippedPublications(), notices)
			}
			wantIDs(t, take(t, s, 1), 4)
		})
	}
}

// A slot that is older than the publication. The advice of the error loses nothing that was published.
func TestPublicationThatIsYoungerThanTheSlot(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "DROP PUBLICATION p")
	insert(t, db, 1, 1, 1)
	db.Exec(t, "CREATE PUBLICATION p FOR TABLE t")
	made := walEnd(t, db)
	insert(t, db, 2, 1, 1)
	if serverVersion(t, db) >= 180000 {
		missesPublication(t, open(t, t.Context(), db), "WithSkippedPublications")
		wantIDs(t, take(t, open(t, t.Context(), db, walchan.WithSkippedPublications()), 1), 2)
		return
	}
	missesPublication(t, open(t, t.Context(), db), "pg_replication_slot_advance('"+db.Name+"'")
	db.Exec(t, "SELECT pg_replication_slot_advance('"+db.Name+"', '"+made.String()+"')")
	wantIDs(t, take(t, open(t, t.Context(), db), 1), 2)
}

// A publication is added to a stream that runs already, while its tables are changed.
func TestPublicationThatIsAdded(t *testing.T) {
	db := newSource(t)
	both := walchan.WithPublication("q") // beside p
	insert(t, db, 1, 1, 1)
	db.Exec(t, "INSERT INTO quiet VALUES (100)", "CREATE PUBLICATION q FOR TABLE quiet")
	made := walEnd(t, db)
	insert(t, db, 2, 1, 1)
	db.Exec(t, "INSERT INTO quiet VALUES (101)")
	insert(t, db, 3, 1, 1)

	s := open(t, t.Context(), db, both)
	want := []int{2, 101, 3}
	if serverVersion(t, db) >= 180000 {
		missesPublication(t, s, "WithSkippedPublications")
		s = open(t, t.Context(), db, both, walchan.WithSkippedPublications())
		want = []int{1, 2, 101, 3}
	} else {
		missesPublication(t, s, "WithUntil")
		old := open(t, t.Context(), db, walchan.WithUntil(made))
		ms := take(t, old, 1)
		wantIDs(t, ms, 1)
		ackAll(old, ms)
		if ms := rest(t, old); len(ms) > 0 || old.Err() != nil {
			t.Fatalf("%s, %v", idsOf(ms), old.Err())
		}
		mustClose(t, old)
		s = open(t, t.Context(), db, both)
	}
	wantIDs(t, take(t, s, len(want)), want...)
}

// The same with a stored checkpoint. Nothing of the old publications comes between the last row and the end, which is stored nevertheless.
func TestPublicationThatIsAddedToACheckpoint(t *testing.T) {
	db := newSource(t)
	if serverVersion(t, db) >= 180000 {
		t.Skip("PostgreSQL 18 skips the publication")
	}
	k := &copyOf{}
	s := k.begins(t, db)
	insert(t, db, 1, 1, 1)
	k.take(t, s, 1)
	mustClose(t, s)
	db.Exec(t, "INSERT INTO quiet VALUES (100)", "CREATE PUBLICATION q FOR TABLE quiet")
	made := walEnd(t, db)
	db.Exec(t, "INSERT INTO quiet VALUES (101)")
	for range 2 {
		k.cannot(t, db, walchan.ErrPublicationMissing, ofTableT, walchan.WithPublication("q"))
	}
	s = k.continues(t, db, walchan.WithUntil(made))
	k.end(t, s)
	if at := k.last(t).Position(); at.Commit >= made {
		t.Errorf("the checkpoint is of a transaction at %s, and none came before %s", at.Commit, made)
	}
	s = k.continues(t, db, walchan.WithPublication("q"))
	k.take(t, s, 1)
	wantSame(t, k.rows, []string{"insert 1", "insert 101"})
}

// end takes messages until the stream has come to its end.
func (k *copyOf) end(t *testing.T, s *walchan.Stream) {
	t.Helper()
	for m := range s.C() {
		k.apply(t, m)
		s.Ack(m)
	}
	must(t, s.Err())
	mustClose(t, s)
}

// What others warn of is not an end.
func TestOtherWarningsDoNotEndAStream(t *testing.T) {
	db := newSource(t)
	s := subscribe(t, db)
	db.Exec(t, "DO $$ BEGIN RAISE WARNING USING ERRCODE = '55000', MESSAGE = 'skipped loading publication' ; END $$")
	insert(t, db, 1, 1, 1)
	wantIDs(t, take(t, s, 1), 1)
}
