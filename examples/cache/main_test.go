package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
)

func TestCache(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE products (id int PRIMARY KEY, price int); INSERT INTO products VALUES (1, 10), (2, 20)")
	ask, in := io.Pipe()
	out, answer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(t.Context(), db.DSN(), "products", "id", ask, answer)
		answer.CloseWithError(io.EOF)
		ended <- err
	}()
	answers := bufio.NewScanner(out)
	get := func(id string) string {
		io.WriteString(in, id+"\n")
		if !answers.Scan() {
			t.Fatal(<-ended)
		}
		return answers.Text()
	}
	expect := func(id, want string) {
		t.Helper()
		if got := get(id); got != want {
			t.Errorf("%s is %q, want %q", id, got, want)
		}
	}
	// until asks until a change has come through.
	until := func(id, want string) {
		t.Helper()
		for i := 0; ; i++ {
			got := get(id)
			if strings.TrimPrefix(strings.TrimPrefix(got, "loaded "), "known  ") == want {
				return
			}
			if i > 100_000 {
				t.Fatalf("%s is still %q, want %q", id, got, want)
			}
		}
	}
	expect("1", "loaded (1,10)")
	expect("1", "known  (1,10)")
	expect("2", "loaded (2,20)")
	db.Exec(t, "UPDATE products SET price = 11 WHERE id = 1")
	until("1", "(1,11)")
	expect("2", "known  (2,20)")
	db.Exec(t, "UPDATE products SET id = 3 WHERE id = 2")
	until("2", "no such row")
	until("3", "(3,20)")
	db.Exec(t, "TRUNCATE products")
	until("1", "no such row")

	// Without its connection the cache is not used; with the next one it is.
	db.Exec(t, "INSERT INTO products VALUES (4, 40)")
	until("4", "(4,40)")
	db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()",
		"UPDATE products SET price = 41 WHERE id = 4")
	until("4", "(4,41)")
	for get("4") != "known  (4,41)" {
	}
	in.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Ctrl-C ends it, also while nothing is asked.
func TestStoppedWhileNothingIsAsked(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE products (id int PRIMARY KEY)")
	ctx, cancel := context.WithCancel(t.Context())
	ask, in := io.Pipe()
	defer in.Close()
	out, answer := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, db.DSN(), "products", "id", ask, answer) }()
	io.WriteString(in, "1\n")
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("no answer")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What changes while it is loaded is not kept.
func TestChangedWhileItIsLoaded(t *testing.T) {
	var c *cache
	c = newCache(func(context.Context, string) (string, error) {
		c.forget("1")
		return "old", nil
	})
	c.get(t.Context(), "1")
	if _, known, _ := c.get(t.Context(), "1"); known {
		t.Error("an old row is kept")
	}
}
