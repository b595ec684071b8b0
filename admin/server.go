package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
)

// System is the identity of a server.
type System struct {
	ID       string // of the cluster; a base backup has the same
	Timeline uint32
	Flushed  wal.LSN // WAL is on disk up to here
	Database string  // "" WithPhysical
}

// System returns the server's identity, and how far its WAL goes (IDENTIFY_SYSTEM).
func (c *Conn) System(ctx context.Context) (System, error) {
	w, err := c.replication(ctx)
	if err != nil {
		return System{}, err
	}
	s, err := begin.Identify(ctx, w.Conn)
	if err != nil {
		return System{}, err
	}
	return System{s.ID, uint32(s.Timeline), s.Flushed, s.Database}, nil
}

// TimelineHistory returns the content of a timeline's history file (TIMELINE_HISTORY). The file's name is
// fmt.Sprintf("%08X.history", timeline). Timeline 1 has none: the content is "".
func (c *Conn) TimelineHistory(ctx context.Context, timeline uint32) (string, error) {
	w, err := c.replication(ctx)
	if err != nil {
		return "", err
	}
	return begin.TimelineHistory(ctx, w.Conn, int32(timeline))
}

// Show returns a setting of the server: "16MB" for "wal_segment_size".
func (c *Conn) Show(ctx context.Context, setting string) (string, error) {
	w, err := c.replication(ctx)
	if err != nil {
		return "", err
	}
	return begin.Show(ctx, w.Conn, setting)
}

// Exec runs a replication command, or SQL, and returns its rows as text; NULL is "". It runs on the replication connection, as CreateSlot does. COPY,
// BASE_BACKUP and START_REPLICATION are refused (walerr.Options). WithPhysical there is no SQL.
func (c *Conn) Exec(ctx context.Context, command string) ([][]string, error) {
	refused := pgfail.Invalid("Exec takes no COPY, BASE_BACKUP and START_REPLICATION")
	if words := strings.Fields(strings.ToUpper(command)); len(words) > 0 && (words[0] == "BASE_BACKUP" || words[0] == "START_REPLICATION") {
		return nil, refused
	}
	w, err := c.replication(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := w.Command(ctx, command)
	switch {
	case errors.Is(err, session.ErrCopy):
		return nil, refused
	case err != nil:
		return nil, pgfail.Failed("command refused", err)
	}
	return rows, nil
}
