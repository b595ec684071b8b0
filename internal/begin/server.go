package begin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// Server is what is to be known of a server, and of a connection to it, before a stream begins.
type Server struct {
	SenderTimeout time.Duration // wal_sender_timeout
	Standby       bool          // it is in recovery
	BackendStart  string        // with the PID it identifies the walsender
	Started       int64         // in microseconds since 1970-01-01 UTC
	StandbyNames  string        // synchronous_standby_names
	Segment       wal.LSN       // wal_segment_size
}

// Remote is what is known of a server once it was asked.
type Remote struct {
	Server
	System  session.System
	History string // of its timeline, where it was asked for
}

// AskServer asks what is to be known of a logical connection. It leaves Segment out.
func AskServer(ctx context.Context, c *session.Conn) (s Server, err error) {
	rows, err := c.Query(ctx, "SELECT pg_catalog.current_setting('wal_sender_timeout'), pg_catalog.pg_is_in_recovery(), backend_start, "+
		"pg_catalog.pg_postmaster_start_time(), pg_catalog.current_setting('synchronous_standby_names') "+
		"FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()")
	if err == nil && len(rows) != 1 {
		err = errors.New("unexpected answer")
	}
	if err != nil {
		return s, pgfail.Failed("read wal_sender_timeout", err)
	}
	if c.Encoding() == "SQL_ASCII" {
		// The server then knows no encoding to convert from, and refuses values that do not happen to be UTF-8.
		if _, err := c.Query(ctx, "SET client_encoding = 'SQL_ASCII'"); err != nil {
			return s, pgfail.Failed("set the encoding", err)
		}
	}
	row := rows[0]
	s = Server{SenderTimeout: parseGUCTime(row[0]), Standby: row[1] == "t", BackendStart: row[2], StandbyNames: row[4]}
	if s.Started, err = parseTimestamp(row[3]); err != nil {
		return s, pgfail.Failed("read when the server was started", err)
	}
	return s, nil
}

// Timers derives the timers of a connection to the server from what the user asks for.
func (s *Server) Timers(wanted link.Timers, log *slog.Logger) link.Timers {
	t, tooLong := wanted.With(s.SenderTimeout)
	if tooLong {
		log.Warn("WithStatusInterval is more than half of the server's wal_sender_timeout: the server may hang up", "interval", t.Status, "wal_sender_timeout", t.Sender)
	}
	return t
}

// AskWithoutSQL asks what is to be known of a physical connection: SenderTimeout, Standby and Segment.
func AskWithoutSQL(ctx context.Context, c *session.Conn) (s Server, err error) {
	var timeout, recovery, segment string
	for name, value := range map[string]*string{"wal_sender_timeout": &timeout, "in_hot_standby": &recovery, "wal_segment_size": &segment} {
		if *value, err = Show(ctx, c, name); err != nil {
			return s, err
		}
	}
	s = Server{SenderTimeout: parseGUCTime(timeout), Standby: recovery == "on"}
	s.Segment, err = parseSegmentSize(segment)
	return s, err
}

// Show asks for a setting.
func Show(ctx context.Context, c *session.Conn, name string) (string, error) {
	rows, err := c.Query(ctx, "SHOW "+pgsql.Quoted(name))
	if err == nil && (len(rows) != 1 || len(rows[0]) != 1) {
		err = errors.New("unexpected answer")
	}
	if err != nil {
		return "", pgfail.Failed("show "+name, err)
	}
	return rows[0][0], nil
}

// Identify asks which cluster this is, and how far its WAL goes.
func Identify(ctx context.Context, c *session.Conn) (session.System, error) {
	system, err := c.Identify(ctx)
	if err != nil {
		return system, pgfail.Failed("identify the system", err)
	}
	return system, nil
}

// FlushedUpTo waits a moment for the server's WAL to come to the position of the slot. One that was made just now begins at the last
// checkpoint, which may be newer than system, and not yet be on disk.
func FlushedUpTo(ctx context.Context, c *session.Conn, lsn wal.LSN, system session.System) (session.System, error) {
	for range 100 {
		if system.Flushed >= lsn {
			break
		}
		var err error
		if system, err = Identify(ctx, c); err != nil {
			return system, err
		}
		if system.Flushed < lsn {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return system, nil
}

// TimelineHistory returns the content of a timeline's history file; "" of timeline 1, which has none.
func TimelineHistory(ctx context.Context, c *session.Conn, timeline int32) (string, error) {
	if timeline <= 1 {
		return "", nil
	}
	history, err := c.TimelineHistory(ctx, timeline)
	if err != nil {
		return "", pgfail.Failed(fmt.Sprintf("read the history of timeline %d", timeline), err)
	}
	return history, nil
}

// terminate ends a walsender. start is its BackendStart: another process may have its PID by now.
func terminate(ctx context.Context, c *session.Conn, pid uint32, start string) error {
	_, err := c.Query(ctx, fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = %d AND backend_start::text = %s",
		pid, pgsql.Literal(start)))
	if err != nil {
		return pgfail.Failed(fmt.Sprintf("terminate our old walsender (PID %d)", pid), err)
	}
	return nil
}

// parseTimestamp reads a time as PostgreSQL prints it, and returns it in microseconds since 1970.
func parseTimestamp(s string) (µs int64, err error) {
	for _, zone := range []string{"-07", "-07:00", "-07:00:00"} {
		var t time.Time
		if t, err = time.Parse("2006-01-02 15:04:05"+zone, s); err == nil {
			return t.UnixMicro(), nil
		}
	}
	return 0, err
}

// parseGUCTime reads a time as SHOW prints it: a number with the largest unit that fits ("1min", "1500ms", "0").
func parseGUCTime(s string) time.Duration {
	n := strings.TrimRight(s, "smihdn")
	v, _ := strconv.Atoi(n)
	unit := map[string]time.Duration{"": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute,
		"h": time.Hour, "d": 24 * time.Hour}[s[len(n):]]
	return time.Duration(v) * unit
}

// parseSegmentSize reads wal_segment_size as SHOW prints it: "16MB", "1GB".
func parseSegmentSize(s string) (wal.LSN, error) {
	digits := strings.TrimRight(s, "MGB")
	n, err := strconv.ParseUint(digits, 10, 32)
	unit, ok := map[string]uint64{"MB": 1 << 20, "GB": 1 << 30}[s[len(digits):]]
	if err != nil || !ok || n == 0 {
		return 0, &walerr.Error{Kind: walerr.Protocol, What: fmt.Sprintf("wal_segment_size is %q", s), Advice: pgfail.ReportIt}
	}
	return wal.LSN(n * unit), nil
}
