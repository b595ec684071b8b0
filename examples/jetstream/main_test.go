package main

import (
	"bufio"
	"context"
	"flag"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/walchan/walchan/internal/pgtest"
)

var natsURL = flag.String("nats", "", "`URL` of a NATS server with JetStream (default: one in the process)")

// What is written comes out of the stream, over two runs, each change once.
func TestJetstream(t *testing.T) {
	db := pgtest.Database(t)
	db.Exec(t, "CREATE TABLE orders (id int PRIMARY KEY, status text)", "INSERT INTO orders VALUES (1, 'new')", "CREATE PUBLICATION shop FOR TABLE orders")
	f := flags{dsn: db.DSN(), slot: db.Name, publication: "shop", nats: *natsURL, store: t.TempDir(), stream: strings.ToUpper(db.Name)}
	session := func(sql string, want ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, f, w)
			w.Close()
		}()
		db.Wait(t, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+db.Name+"' AND active")
		db.Exec(t, sql)
		lines := bufio.NewScanner(r)
		for _, pattern := range want {
			if !lines.Scan() || !regexp.MustCompile(pattern).MatchString(lines.Text()) {
				t.Errorf("line is %q, want %q", lines.Text(), pattern)
			}
		}
		cancel()
		for lines.Scan() {
			t.Errorf("one more line: %q", lines.Text())
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	session("INSERT INTO orders VALUES (2, 'new'); UPDATE orders SET status = 'paid' WHERE id = 2", `\.snapshot .*"begin"`,
		`\.public\.orders .*"after":{"id":1,"status":"new"}.*"op":"r"`, `\.snapshot .*"end"`, `\.orders .*"after":{"id":2,"status":"new"}.*"op":"c"`, `"paid".*"op":"u"`)
	session("DELETE FROM orders WHERE id = 1", `"before":{"id":1},"after":null.*"op":"d"`)
}

func TestWithoutServer(t *testing.T) {
	if err := run(t.Context(), flags{dsn: "host=127.0.0.1 port=1", nats: "nats://127.0.0.1:1"}, io.Discard); err == nil || !strings.Contains(err.Error(), "NATS") {
		t.Errorf("error is %v", err)
	}
}
