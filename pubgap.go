package walchan

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/link"
)

// WithSkippedPublications goes on if the server skips a publication that was dropped, or that is younger than the changes it
// sends, overriding the default of ending with ErrPublicationMissing. Changes are then missing: those made while the publication
// did not exist. It is for PostgreSQL 18 or later; before, the server does not go on.
func WithSkippedPublications() Option { return func(c *config) { c.skippedPublications = true } }

// noticed takes in a notice of the server. It is called by the goroutine that reads.
func (c *connection) noticed(cfg *config, n *pgconn.Notice) {
	if begin.SkipsPublication(n) && !cfg.skippedPublications {
		c.gap = &Error{Kind: ErrPublicationMissing, What: "the server skips a publication of the stream", Err: (*pgconn.PgError)(n)}
		if c.Conn != nil {
			c.Refuse(c.gap)
		}
	}
}

// publicationGap is the permanent error of changes that were made while a publication of the stream did not exist. cause is what the
// server says of them.
func (o *owner) publicationGap(cause error) error {
	c := o.conn.Load()
	version, _ := c.Version()
	ctx, cancel := context.WithTimeout(o.ctx, link.AskTimeout)
	defer cancel()
	gap := begin.Gap{Slot: o.source.Slot, Publications: o.cfg.publications, Version: version, Received: c.Received}
	return gap.Explain(ctx, &c.Reached, cause)
}
