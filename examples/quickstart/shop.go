package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// openShop starts a throwaway server with a small shop, whose day is what happens while streaming.
func openShop(ctx context.Context) (source, error) {
	src := source{close: func() error { return nil }}
	note("starting a throwaway PostgreSQL")
	server, err := pgtest.New(ctx)
	if err != nil {
		return src, err
	}
	src.dsn = server.DSN()
	src.close = server.Close
	src.greeting = "a small shop opens"
	src.options = []walchan.Option{walchan.WithPublication("shop")}
	src.work = func(ctx context.Context) error { return inShop(ctx, src.dsn, day) }
	src.last = func(m walchan.Message) bool { return m.Prefix() == "shop" && m.Payload() == "closed" }
	return src, inShop(ctx, src.dsn, furniture)
}

// inShop runs one transaction after the other, with a pause where a person watches.
func inShop(ctx context.Context, dsn string, transactions []string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range transactions {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%w in %s", err, sql)
		}
		if isTerminal(os.Stdout) {
			time.Sleep(150 * time.Millisecond)
		}
	}
	return nil
}

var furniture = []string{`
	CREATE TYPE status AS ENUM ('new', 'paid', 'shipped');

	CREATE TABLE customers (
		id    int PRIMARY KEY,
		name  text NOT NULL,
		tags  text[],
		since timestamptz NOT NULL
	);
	CREATE TABLE products (
		sku    text PRIMARY KEY,
		price  numeric(10, 2) NOT NULL,
		specs  jsonb,
		manual text
	);
	CREATE TABLE orders (
		id       int PRIMARY KEY,
		customer int REFERENCES customers ON UPDATE CASCADE,
		status   status NOT NULL,
		total    numeric(10, 2),
		at       timestamptz NOT NULL
	);
	CREATE TABLE stock (sku text REFERENCES products, shelf int, pieces int, PRIMARY KEY (sku, shelf));
	CREATE TABLE carts (id int PRIMARY KEY);
	CREATE TABLE visits (id int PRIMARY KEY);

	-- Old rows come whole, not only their key.
	ALTER TABLE orders REPLICA IDENTITY FULL;
	-- Large values are stored apart (TOAST) without being compressed before.
	ALTER TABLE products ALTER manual SET STORAGE EXTERNAL;

	CREATE PUBLICATION shop FOR ALL TABLES`,
}

var day = []string{
	`INSERT INTO customers VALUES
		(1, 'Ada Lovelace', '{early,"pays cash"}', '2026-01-05 09:00+00'),
		(2, 'Grace Hopper', '{}', '2026-02-11 17:30+00')`,
	`INSERT INTO carts VALUES (1), (2);
	INSERT INTO visits VALUES (1), (2), (3)`,

	`INSERT INTO products VALUES
		('lamp', 39.90, '{"dim": true, "watts": 7}', repeat('Do not look into the light. ', 100)),
		('chair', 129.00, '{"legs": 4}', NULL)`,
	`INSERT INTO orders VALUES (1001, 1, 'new', 168.90, '2026-03-01 10:15+00');
	UPDATE orders SET status = 'paid' WHERE id = 1001`,
	`INSERT INTO orders VALUES (1002, 2, 'new', 39.90, '2026-03-01 10:20+00')`,
	`UPDATE orders SET status = 'shipped' WHERE id = 1001`,

	// The manual is large and stays as it is, so the server does not send it: it is "unchanged", not NULL.
	`UPDATE products SET price = 34.90 WHERE sku = 'lamp'`,
	// The key changes, and with it the orders that refer to it.
	`UPDATE customers SET id = 20 WHERE id = 2`,
	`UPDATE customers SET tags = NULL WHERE id = 1`,
	// What is rolled back never happened.
	`BEGIN; DELETE FROM orders; ROLLBACK`,
	`DELETE FROM orders WHERE id = 1002;
	DELETE FROM customers WHERE id = 20`,

	`INSERT INTO stock SELECT sku, shelf, shelf % 7 FROM products, generate_series(1, 250) shelf`,
	`TRUNCATE carts, visits`,
	// A message in the log that belongs to no table: programs tell each other so where they are.
	`SELECT pg_logical_emit_message(true, 'shop', 'closed')`,
}
