package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/admin"
)

// openServer looks at a server of the user's. What it makes there for a look goes when the look ends.
func openServer(ctx context.Context, f flags) (source, error) {
	src := source{
		dsn:   f.dsn,
		close: func() error { return nil },
		work:  func(context.Context) error { return nil },
		last:  func(walchan.Message) bool { return false },
	}
	if len(f.tables) > 0 {
		if f.slot != "" {
			return src, errors.New("-table makes a publication that goes when this ends, and a slot of yours would miss it: make one that stays, and name it with -publication")
		}
		if err := src.publish(ctx, f.tables); err != nil {
			return src, err
		}
	}
	if len(f.publications) > 0 {
		src.options = append(src.options, walchan.WithPublication(f.publications...))
	}
	if f.plugin != "" {
		src.options = append(src.options, walchan.WithPlugin(f.plugin, nil))
	}
	if len(src.options) == 0 {
		return src, errors.New("what to look at? Name it with -table, -publication or -plugin")
	}
	if f.createSlot {
		src.options = append(src.options, walchan.WithCreateSlot())
	}
	src.greeting = "reading from a temporary slot, which begins now and goes when this ends; Ctrl-C ends it"
	if f.slot != "" {
		src.options = append(src.options, walchan.WithSlot(f.slot))
		src.greeting = "reading from the slot " + f.slot + "; Ctrl-C ends it. The server keeps WAL for the slot until you SELECT pg_drop_replication_slot('" + f.slot + "')"
	}
	return src, nil
}

// publish makes a publication of the tables, which close drops.
func (src *source) publish(ctx context.Context, tables []string) error {
	publication := fmt.Sprintf("quickstart_%08x", rand.Uint32())
	conn, err := admin.Connect(ctx, src.dsn)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.EnsurePublication(ctx, admin.PublicationSpec{Name: publication, Tables: admin.Tables(tables...)})
	if errors.Is(err, walchan.ErrTableKey) {
		return fmt.Errorf("%w (here: make a publication that stays, and name it with -publication)", err)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	// It was made; or we were interrupted, and it may have been.
	src.close = func() error {
		if err := drop(context.WithoutCancel(ctx), src.dsn, publication); err != nil {
			return fmt.Errorf("the publication %s is still there, drop it: %w", publication, err)
		}
		return nil
	}
	note("the publication %s, of %s, is made for this and goes when it ends", publication, strings.Join(tables, ", "))
	src.options = append(src.options, walchan.WithPublication(publication))
	return err
}

func drop(ctx context.Context, dsn, publication string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := admin.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.DropPublication(ctx, publication)
}
