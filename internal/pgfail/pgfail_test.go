package pgfail

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/walerr"
)

func TestFailedSaysWhatAnErrorMeans(t *testing.T) {
	pg := func(state string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: state, Message: "message", Severity: "ERROR"})
	}
	for text, x := range map[string]struct {
		err  error
		kind error
	}{
		"walchan: look: EOF; see the server's log":                                                                 {errors.New("EOF"), walerr.Unreachable},
		"walchan: look: context canceled":                                                                          {context.Canceled, walerr.Unreachable},
		"walchan: look: message (SQLSTATE 08006); see the server's log":                                            {pg("08006"), walerr.Unreachable},
		"walchan: look: message (SQLSTATE 28P01); see the server's log":                                            {pg("28P01"), walerr.Authentication},
		"walchan: look: message (SQLSTATE 42501); grant it to the role":                                            {pg("42501"), walerr.Permission},
		"walchan: look: message (SQLSTATE 3D000); see the server's log":                                            {pg("3D000"), walerr.DatabaseMissing},
		"walchan: look: message (SQLSTATE 53300); raise max_wal_senders or max_connections, or end another client": {pg("53300"), walerr.TooManyClients},
		"walchan: look: message (SQLSTATE 25006); connect to the primary: this is a standby":                       {pg("25006"), walerr.ServerDown},
		"walchan: look: message (SQLSTATE 57P01); wait until it is up again":                                       {pg("57P01"), walerr.ServerDown},
		"walchan: look: message (SQLSTATE XX000); see the server's log":                                            {pg("XX000"), walerr.Server},
	} {
		e := Failed("look", x.err)
		if !errors.Is(e, x.kind) || e.Error() != text {
			t.Errorf("%v is %v, of kind %v; want %s, %v", x.err, e, e.Kind, text, x.kind)
		}
	}
}

// What is explained already is not explained again, however it is wrapped. A text that only looks like ours says nothing.
func TestIsExplained(t *testing.T) {
	ours := &walerr.Error{Kind: walerr.SlotMissing, What: "slot"}
	for _, x := range []struct {
		err  error
		want bool
	}{
		{ours, true},
		{fmt.Errorf("wrapped: %w", ours), true},
		{errors.Join(errors.New("other"), ours), true},
		{walerr.Closed, true},
		{errors.New("walchan: alike"), false},
		{&pgconn.PgError{Code: "XX000"}, false},
		{context.Canceled, false},
	} {
		if IsExplained(x.err) != x.want {
			t.Errorf("%q: %v", x.err, !x.want)
		}
	}
}
