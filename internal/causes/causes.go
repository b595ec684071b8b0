// Package causes shows the errors of others in one line.
package causes

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/walchan/walchan/internal/sqlstate"
)

// Line is the text of a cause, in one line. pgx has one cause for each address that it has tried.
func Line(err error) string {
	causes := withoutPreferredTLS(Split(err))
	texts := make([]string, len(causes))
	for i, cause := range causes {
		text, pg, dial := cause.Error(), sqlstate.Error(cause), (*net.OpError)(nil)
		switch {
		case isOurs(cause):
			text = strings.TrimPrefix(text, Prefix) // it was said
		case pg != nil && len(causes) == 1:
			text = fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
		case errors.As(cause, &dial) && dial.Op == "dial":
			text = dial.Error()
		}
		texts[i] = strings.Join(strings.Fields(text), " ")
	}
	return strings.Join(slices.Compact(texts), "; ")
}

// withoutPreferredTLS leaves out that a server does no TLS where it was asked again without: with sslmode=prefer, the default,
// that is no failure, and what the second attempt says is all there is to know.
func withoutPreferredTLS(attempts []error) []error {
	var kept []error
	for i, err := range attempts {
		address, refused := strings.CutSuffix(err.Error(), RefusedTLS)
		if refused && i+1 < len(attempts) && strings.HasPrefix(attempts[i+1].Error(), address) {
			continue
		}
		kept = append(kept, err)
	}
	return kept
}

// Split takes joined errors apart.
func Split(err error) []error {
	for e := err; e != nil && !isOurs(e); e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			var all []error
			for _, e := range joined.Unwrap() {
				all = append(all, Split(e)...)
			}
			return all
		}
	}
	return []error{err}
}

// isOurs says whether the text of err is ours, and fit to be shown. For what an error means see pgfail.IsExplained.
func isOurs(err error) bool {
	_, withheld := err.(sqlstate.Withheld)
	return withheld || strings.HasPrefix(err.Error(), Prefix)
}

// Prefix is what the texts of our errors begin with.
const Prefix = "walchan: "

// RefusedTLS is how pgconn says that a server does no TLS, behind the address. It has no type for that.
const RefusedTLS = "tls error: server refused TLS connection"
