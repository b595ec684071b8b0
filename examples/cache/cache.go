package main

import (
	"context"
	"sync"
)

// cache keeps what load has returned until it is told that it has changed.
type cache struct {
	load func(ctx context.Context, id string) (string, error)

	mu      sync.Mutex
	rows    map[string]string
	loading map[string]bool // being loaded, and not changed since: else what comes may be old
	usable  bool
}

func newCache(load func(context.Context, string) (string, error)) *cache {
	return &cache{load: load, rows: map[string]string{}, loading: map[string]bool{}, usable: true}
}

// get returns a row, and whether it was known. It is for one goroutine.
func (c *cache) get(ctx context.Context, id string) (row string, known bool, err error) {
	c.mu.Lock()
	row, known = c.rows[id]
	if !known && c.usable {
		c.loading[id] = true
	}
	c.mu.Unlock()
	if known {
		return row, true, nil
	}
	row, err = c.load(ctx, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.loading[id] {
		c.rows[id] = row
	}
	delete(c.loading, id)
	return row, false, err
}

// forget forgets a row.
func (c *cache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rows, id)
	delete(c.loading, id)
}

// forgetAll forgets all rows.
func (c *cache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.rows)
	clear(c.loading)
}

// use says whether rows may be kept.
func (c *cache) use(yes bool) {
	if !yes {
		c.forgetAll()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usable = yes
}
