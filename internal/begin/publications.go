package begin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// Changes that were made while a publication of the stream did not exist. pgoutput asks the catalogue as it was at the change
// (LoadPublications in src/backend/replication/pgoutput/pgoutput.c). Before PostgreSQL 18 the stream fails there. Since then the
// server leaves the changes out and says so in a warning: each connection that comes to such a change gets one.

// skippingServer is the first version that skips a publication.
const skippingServer = 180000

// SkipsPublication says whether the server skips a publication. It knows the warning by all but its text, which may be in any language.
func SkipsPublication(n *pgconn.Notice) bool {
	return n.Code == sqlstate.NotPrerequisite && n.SeverityUnlocalized == "WARNING" && n.File == "pgoutput.c" && n.Routine == "LoadPublications"
}

// Gap is where a stream has come to changes that a publication is younger than, or that were made after its end.
type Gap struct {
	Slot         string
	Publications []string
	Version      int     // of the server
	Received     wal.LSN // up to here everything has come
}

// Explain asks the server, over another connection, which publication is missing. It returns the permanent error of such changes. cause is
// what the server has said.
func (g *Gap) Explain(ctx context.Context, server *dial.Reached, cause error) error {
	e := &walerr.Error{Kind: walerr.PublicationMissing, Err: cause}
	missing, err := g.missing(ctx, server)
	switch {
	case err != nil:
		e.What = "a publication of the stream does not exist where the changes go on"
		e.Advice = "see whether it exists (pg_publication), then Subscribe"
	case missing != "":
		e.What = "no such publication: " + missing
		e.Advice = "make it again, then Subscribe, which says how to go on; the changes made meanwhile are missing"
	default:
		e.What = fmt.Sprintf("a publication of the stream exists now, but not yet at the changes after %s", g.Received)
		e.Advice = g.recovery()
	}
	return e
}

// recovery says how a stream gets beyond changes that were made before a publication. The position must be one at which the transactions
// that were running when it was made have ended, because their first changes do not know it.
func (g *Gap) recovery() string {
	if g.Version >= skippingServer {
		return "Subscribe with WithSkippedPublications: it leaves out what was changed while the publication did not exist"
	}
	return fmt.Sprintf("stream the other publications up to where it was made (WithUntil), or without others move the slot there "+
		"(SELECT pg_replication_slot_advance(%s, …)), then Subscribe with all; if that position is not known, take pg_current_wal_lsn(), "+
		"and read the rows of its tables (ReadRows)", pgsql.Literal(g.Slot))
}

// missing names the publications that do not exist now.
func (g *Gap) missing(ctx context.Context, server *dial.Reached) (string, error) {
	conn, err := server.DialOrdinary(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := session.Query(ctx, conn, "SELECT pubname FROM pg_catalog.pg_publication")
	if err != nil {
		return "", err
	}
	var missing []string
	for _, name := range g.Publications {
		if !slices.ContainsFunc(rows, func(r []string) bool { return r[0] == name }) {
			missing = append(missing, fmt.Sprintf("%q", name))
		}
	}
	return strings.Join(missing, ", "), nil
}
