package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/walchan/walchan"
)

// bar shows on a terminal how far the snapshot has come; nil shows nothing.
type bar struct {
	w       io.Writer
	shownAt time.Time
	shown   bool
}

// newBar returns nil unless f is a terminal.
func newBar(f *os.File) *bar {
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 || f.Name() == os.DevNull {
		return nil
	}
	return &bar{w: f}
}

// isDue says whether to show it again: ten times a second at most.
func (b *bar) isDue() bool { return b != nil && time.Since(b.shownAt) >= 100*time.Millisecond }

func (b *bar) show(tables []walchan.TableProgress) {
	switch {
	case len(tables) == 0:
	case !slices.ContainsFunc(tables, func(t walchan.TableProgress) bool { return !t.Done }):
		b.end()
	default:
		fmt.Fprint(b.w, "\r\x1b[K", progress(tables))
		b.shownAt, b.shown = time.Now(), true
	}
}

// end leaves the terminal as it was.
func (b *bar) end() {
	if b != nil && b.shown {
		fmt.Fprint(b.w, "\r\x1b[K")
		b.shown = false
	}
}

// progress is the bar: by bytes, for which a table that is done counts as estimated.
func progress(tables []walchan.TableProgress) string {
	const width = 30
	var done, all, rows int64
	doing := ""
	for _, t := range tables {
		rows += t.Rows
		all += t.EstimatedBytes
		switch {
		case t.Done:
			done += t.EstimatedBytes
		case t.Rows > 0 || doing == "":
			doing = t.Table
			done += min(t.Bytes, t.EstimatedBytes)
		}
	}
	share := int64(100)
	if all > 0 {
		share = 100 * done / all
	}
	filled := int(share) * width / 100
	return fmt.Sprintf("snapshot [%s%s] %3d %%  %d rows  %s", strings.Repeat("#", filled), strings.Repeat(".", width-filled), share, rows, doing)
}
