package tables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/walerr"
)

// CheckPublications fails if one is missing. A server before version 18 says so only at the first change, later ones merely warn.
func CheckPublications(ctx context.Context, c *session.Conn, names []string) error {
	if len(names) == 0 {
		return nil
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = pgsql.Literal(n)
	}
	rows, err := c.Query(ctx, "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ("+strings.Join(quoted, ", ")+")")
	if err != nil {
		return pgfail.Failed("look up the publications", err)
	}
	var missing []string
	for _, n := range names {
		if !slices.ContainsFunc(rows, func(r []string) bool { return r[0] == n }) {
			missing = append(missing, fmt.Sprintf("%q", n))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &walerr.Error{Kind: walerr.PublicationMissing, What: "no such publication: " + strings.Join(missing, ", "),
		Advice: "create it: CREATE PUBLICATION, or EnsurePublication of package admin"}
}
