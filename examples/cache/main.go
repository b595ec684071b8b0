// Cache keeps rows of a table in memory, and forgets those that change in the database, whoever changes them:
//
//	go run ./examples/cache -dsn postgres://localhost/shop -table products -key id
//
// It reads keys from its standard input and prints the rows, and whether they were known already. The publication is called
// cache; the slot is a temporary one, for a cache that begins empty needs no history.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
	"github.com/walchan/walchan/pipeline"
)

func main() {
	dsn := flag.String("dsn", "", "connection string of the `server` (default: what PGHOST etc. say)")
	table := flag.String("table", "products", "`name` of the table")
	key := flag.String("key", "id", "`name` of its key column")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dsn, *table, *key, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cache:", err)
		os.Exit(1)
	}
}

// run answers the questions on in until it ends, or ctx does.
func run(ctx context.Context, dsn, table, key string, in io.Reader, out io.Writer) error {
	if err := publish(ctx, dsn, table); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sql := fmt.Sprintf("SELECT t::text FROM %s t WHERE %s::text = $1", pgx.Identifier(strings.Split(table, ".")).Sanitize(), pgx.Identifier{key}.Sanitize())
	c := newCache(func(ctx context.Context, id string) (row string, err error) {
		err = conn.QueryRow(ctx, sql, id).Scan(&row)
		if errors.Is(err, pgx.ErrNoRows) {
			return "no such row", nil
		}
		return row, err
	})
	stream, err := subscribe(ctx, dsn, c)
	if err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() { follow(following, dsn, key, c, stream) })
	defer follower.Wait()
	defer stop()
	for id := range lines(ctx, in) {
		row, known, err := c.get(ctx, id)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, map[bool]string{true: "known ", false: "loaded"}[known], row)
	}
	return nil
}

// publish makes the publication, unless it is there.
func publish(ctx context.Context, dsn, table string) error {
	conn, err := admin.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.EnsurePublication(ctx, admin.PublicationSpec{Name: "cache", Tables: admin.Tables(table)})
	return err
}

// lines returns the lines of in, until that ends or ctx does. A terminal's Read cannot be interrupted: it is left behind.
func lines(ctx context.Context, in io.Reader) iter.Seq[string] {
	read := make(chan string)
	go func() {
		defer close(read)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case read <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(yield func(string) bool) {
		for {
			select {
			case line, open := <-read:
				if !open || !yield(line) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// subscribe opens the stream of changes. While that is not connected the cache may be stale, and is not used.
func subscribe(ctx context.Context, dsn string, c *cache) (*walchan.Stream, error) {
	return walchan.Subscribe(ctx, dsn, walchan.WithPublication("cache"), walchan.WithStateHook(func(s walchan.Stats) {
		switch s.State {
		case walchan.StateStreaming, walchan.StateIdle:
			c.use(true)
		case walchan.StateRetrying, walchan.StateClosed:
			c.use(false)
		}
	}))
}

// follow forgets what changes, until ctx ends. A stream that has lost its temporary slot is followed by another one.
func follow(ctx context.Context, dsn, key string, c *cache, stream *walchan.Stream) {
	for {
		err := forget(ctx, stream, key, c)
		for ctx.Err() == nil && err != nil {
			slog.Warn("the cache is not used", "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
			stream, err = subscribe(ctx, dsn, c)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// forget forgets what the stream says has changed.
func forget(ctx context.Context, stream *walchan.Stream, key string, c *cache) error {
	g := pipeline.New(ctx, stream, time.Second)
	for it := range g.Source() {
		m := it.Value
		if m.Relation == nil {
			c.forgetAll() // TRUNCATE
		}
		for _, row := range []walchan.Row{m.Old(), m.New()} {
			if row.Len() == 0 {
				continue
			}
			if i := row.Relation().Index(key); i >= 0 && row.State(i) == walchan.Text {
				c.forget(row.Text(i))
			}
		}
		it.Ack()
	}
	return g.Wait()
}
