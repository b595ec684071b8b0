package walchan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// reading is a call of ReadRows under way.
func reading(t *testing.T, s *walchan.Stream, table walchan.SnapshotTable, after ...string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.ReadRows(t.Context(), table, after...) }()
	return done
}

// A table that is rewritten looks empty to a snapshot from before: ReadRows does not take that for its end.
func TestReadRowsOfATableThatIsRewrittenMeanwhile(t *testing.T) {
	const rows = 5000
	db := newSource(t)
	db.Exec(t, "CREATE TABLE w (id int PRIMARY KEY, v text)", fmt.Sprintf("INSERT INTO w SELECT g, repeat('x', 100) FROM generate_series(1, %d) g", rows), "ALTER PUBLICATION p ADD TABLE w")
	s := subscribe(t, db)
	done := reading(t, s, walchan.SnapshotTable{Name: "w"})
	s.Ack(next(t, s))
	conn := pgtest.Connect(t, db.DSN())
	run(t, conn, "BEGIN", "ALTER TABLE w ALTER id TYPE bigint")
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		db.Wait(t, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'w'::regclass")
		run(t, conn, "COMMIT")
	}()
	seen := 0
	for m := next(t, s); m.Kind != walchan.SnapshotEnd; m = next(t, s) {
		if m.Kind == walchan.Read {
			seen++
		}
		s.Ack(m)
	}
	if seen != rows {
		t.Errorf("%d rows, want %d", seen, rows)
	}
	<-waiting
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A Read is the row as it is at its place among the changes, also one of a table that was altered meanwhile.
func TestReadRowsOfATableThatGetsAColumn(t *testing.T) {
	const rows = 5000
	db := newSource(t)
	db.Exec(t, "CREATE TABLE w (id int PRIMARY KEY, v text)", fmt.Sprintf("INSERT INTO w SELECT g, repeat('x', 100) FROM generate_series(1, %d) g", rows), "ALTER PUBLICATION p ADD TABLE w")
	s := subscribe(t, db)
	done := reading(t, s, walchan.SnapshotTable{Name: "w"})
	s.Ack(next(t, s))
	db.Exec(t, "ALTER TABLE w ADD COLUMN c int", fmt.Sprintf("UPDATE w SET c = 7 WHERE id = %d", rows))
	var last walchan.Message
	for m := next(t, s); m.Kind != walchan.SnapshotEnd; m = next(t, s) {
		if m.Kind == walchan.Read {
			last = m
		}
		s.Ack(m)
	}
	if c, err := last.New().Value("c"); id(last) != rows || c != int32(7) {
		t.Errorf("the last row is %v with c = %v, %v; want 7", last, c, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What is no longer there, or not what it was, cannot be read to its end.
func TestReadRowsOfATableThatIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		sql  []string
		want error
	}{
		"dropped":       {[]string{"DROP TABLE w"}, walchan.ErrTableMissing},
		"renamed":       {[]string{"ALTER TABLE w RENAME TO x"}, walchan.ErrTableMissing},
		"another":       {[]string{"ALTER TABLE w RENAME TO x", "CREATE TABLE w (LIKE x INCLUDING ALL)", "ALTER PUBLICATION p ADD TABLE w"}, walchan.ErrTableMissing},
		"not published": {[]string{"ALTER PUBLICATION p DROP TABLE w", "ALTER TABLE w ADD COLUMN c int"}, walchan.ErrTableMissing},
		"another key":   {[]string{"ALTER TABLE w RENAME id TO nr"}, walchan.ErrTableKey},
		"no key":        {[]string{"ALTER TABLE w DROP COLUMN id"}, walchan.ErrTableKey},
	} {
		t.Run(name, func(t *testing.T) {
			db := newSource(t)
			db.Exec(t, "CREATE TABLE w (id int PRIMARY KEY, v text)", "INSERT INTO w SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g", "ALTER PUBLICATION p ADD TABLE w")
			s := subscribe(t, db)
			done := reading(t, s, walchan.SnapshotTable{Name: "w"})
			s.Ack(next(t, s))
			db.Exec(t, c.sql...)
			for {
				select {
				case m := <-s.C():
					s.Ack(m)
					continue
				case err := <-done:
					check(t, err, c.want, "w")
				case <-time.After(patience):
					t.Errorf("ReadRows does not return: %+v", s.Stats())
				}
				break
			}
		})
	}
}

// The key of the last Read that was stored is where the next process goes on, also where rows come again.
func TestReadRowsComeInTheOrderOfTheKey(t *testing.T) {
	const rows = 3000
	db := newSource(t)
	db.Exec(t, "CREATE TABLE w (id int PRIMARY KEY, n int, big text)", "ALTER TABLE w ALTER big SET STORAGE EXTERNAL",
		fmt.Sprintf("INSERT INTO w SELECT g, 0, repeat(md5(g::text), 80) FROM generate_series(1, %d) g", rows), "ALTER PUBLICATION p ADD TABLE w")
	s := subscribe(t, db)
	done := reading(t, s, walchan.SnapshotTable{Name: "w"})
	seen, at := map[int]int{}, 0
	for m := next(t, s); m.Kind != walchan.SnapshotEnd; m = next(t, s) {
		s.Ack(m)
		if m.Kind != walchan.Read {
			continue
		}
		row := id(m)
		if seen[row]++; row > at+1 {
			for missing := at + 1; missing < row && missing <= rows; missing++ {
				if missing%10 != 5 && missing != 2 && seen[missing] == 0 {
					t.Fatalf("row %d comes before row %d", row, missing)
				}
			}
		}
		at = max(at, row)
		if len(seen) == 3 { // what was read moves to where it will be read, and back
			db.Exec(t, "UPDATE w SET id = 100000 WHERE id = 2", fmt.Sprintf("UPDATE w SET id = -id WHERE id > %d AND id %% 10 = 5", rows-100))
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, row := range []int{rows - 5, rows - 15} {
		if seen[-row] == 0 && seen[row] == 0 {
			t.Errorf("row %d, which moved to where the reading had been, did not come", -row)
		}
	}
	if seen[100000] != 1 {
		t.Errorf("row 100000 came %d times", seen[100000])
	}
}

// A piece is bounded in bytes, whatever the rows before it were like.
func TestReadRowsOfLargeRows(t *testing.T) {
	db := newSource(t)
	db.Exec(t, "CREATE TABLE w (id int PRIMARY KEY, v text)", "INSERT INTO w SELECT g, '' FROM generate_series(1, 3000) g",
		"INSERT INTO w SELECT g, repeat('x', 1000000) FROM generate_series(3001, 3040) g", "INSERT INTO w SELECT -g, repeat('x', 1000000) FROM generate_series(1, 40) g",
		"ALTER PUBLICATION p ADD TABLE w")
	s := subscribe(t, db)
	done := reading(t, s, walchan.SnapshotTable{Name: "w"})
	pieces, rows := map[walchan.LSN]int{}, 0
	for m := next(t, s); m.Kind != walchan.SnapshotEnd; m = next(t, s) {
		if m.Kind == walchan.Read {
			pieces[m.LSN] += m.Size()
			rows++
		}
		s.Ack(m)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for at, size := range pieces {
		if size > 16<<20 {
			t.Errorf("the piece at %s has %d bytes", at, size)
		}
	}
	if rows != 3080 {
		t.Errorf("%d rows, want 3080", rows)
	}
}
