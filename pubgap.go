package walchan

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
)

// Changes that were made while a publication of the stream did not exist. pgoutput asks the catalogue as it was at the change
// (LoadPublications in src/backend/replication/pgoutput/pgoutput.c). Before PostgreSQL 18 the stream fails there. Since then the
// server leaves the changes out and says so in a warning: each connection that comes to such a change gets one.

// WithSkippedPublications goes on if the server skips a publication that was dropped, or that is younger than the changes it
// sends, overriding the default of ending with ErrPublicationMissing. Changes are then missing: those made while the publication
// did not exist. It is for PostgreSQL 18 or later; before, the server does not go on.
func WithSkippedPublications() Option { return func(c *config) { c.skippedPublications = true } }

// skippedServer is the first version that skips a publication.
const skippedServer = 180000

// noticed takes in a notice of the server. It is called by the goroutine that reads.
func (c *connection) noticed(cfg *config, n *pgconn.Notice) {
	if isSkippedPublication(n) && !cfg.skippedPublications {
		c.gap = &Error{Kind: ErrPublicationMissing, What: "the server skips a publication of the stream", Err: (*pgconn.PgError)(n)}
		if c.Conn != nil {
			c.Refuse(c.gap)
		}
	}
}

// isSkippedPublication knows the warning by all but its text, which may be in any language.
func isSkippedPublication(n *pgconn.Notice) bool {
	return n.Code == sqlstate.NotPrerequisite && n.SeverityUnlocalized == "WARNING" && n.File == "pgoutput.c" && n.Routine == "LoadPublications"
}

// publicationGap is the permanent error of such changes. cause is what the server says of them.
func (o *owner) publicationGap(cause error) error {
	e := &Error{Kind: ErrPublicationMissing, Err: cause}
	c := o.conn.Load()
	version, _ := c.Version()
	missing, err := o.missingPublications(c)
	switch {
	case err != nil:
		e.What = "a publication of the stream does not exist where the changes go on"
		e.Advice = "see whether it exists (pg_publication), then Subscribe"
	case missing != "":
		e.What = "no such publication: " + missing
		e.Advice = "make it again, then Subscribe, which says how to go on; the changes made meanwhile are missing"
	default:
		e.What = fmt.Sprintf("a publication of the stream exists now, but not yet at the changes after %s", c.received)
		e.Advice = recovery(o.source.Slot, version)
	}
	return e
}

// recovery says how a stream gets beyond changes that were made before a publication. The position must be one at which the transactions
// that were running when it was made have ended, because their first changes do not know it.
func recovery(slot string, version int) string {
	if version >= skippedServer {
		return "Subscribe with WithSkippedPublications: it leaves out what was changed while the publication did not exist"
	}
	return fmt.Sprintf("stream the other publications up to where it was made (WithUntil), or without others move the slot there "+
		"(SELECT pg_replication_slot_advance(%s, …)), then Subscribe with all; if that position is not known, take pg_current_wal_lsn(), "+
		"and read the rows of its tables (ReadRows)", pgsql.Literal(slot))
}

// missingPublications names the publications that do not exist now.
func (o *owner) missingPublications(c *connection) (string, error) {
	ctx, cancel := context.WithTimeout(o.ctx, awaitTimeout)
	defer cancel()
	conn, err := c.DialOrdinary(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := session.Query(ctx, conn, "SELECT pubname FROM pg_catalog.pg_publication")
	if err != nil {
		return "", err
	}
	var missing []string
	for _, name := range o.cfg.publications {
		if !slices.ContainsFunc(rows, func(r []string) bool { return r[0] == name }) {
			missing = append(missing, fmt.Sprintf("%q", name))
		}
	}
	return strings.Join(missing, ", "), nil
}
