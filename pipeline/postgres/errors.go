package postgres

import (
	"errors"
	"fmt"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/pipeline"
)

// Options of the stream that do not go with the sink.
var (
	errBinary   = backoff.Permanent(errors.New("the values are in binary format: leave out walchan.WithBinary"))
	errPrepared = backoff.Permanent(errors.New("the transaction is prepared, not committed: leave out walchan.WithTwoPhase"))
)

// state returns the SQLSTATE of err, or "".
func state(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// isRefusal says whether the server found fault with the data: data exceptions, integrity constraints, cardinality (an
// upsert's), and errors that triggers raise. Anything else may pass, or somebody may mend it.
func isRefusal(err error) bool {
	s := state(err)
	return len(s) == 5 && (s[:2] == "21" || s[:2] == "22" || s[:2] == "23" || s[:2] == "44" || s[:2] == "P0")
}

// withheld is an error of the server whose message may quote a value.
type withheld struct{ pg *pgconn.PgError }

func (w withheld) Error() string {
	text := "SQLSTATE " + w.pg.Code
	if w.pg.ConstraintName != "" {
		text += ", constraint " + quote(w.pg.ConstraintName)
	}
	if w.pg.ColumnName != "" {
		text += ", column " + quote(w.pg.ColumnName)
	}
	return text
}

func (w withheld) Unwrap() error { return w.pg }

// applyError is the error of a statement.
func applyError(st statement, err error) error {
	var pg *pgconn.PgError
	if isRefusal(err) && errors.As(err, &pg) {
		err = withheld{pg}
	}
	if st.table != "" {
		err = fmt.Errorf("apply to %s: %w", st.table, err)
	}
	if state(err) == "42P10" { // invalid_column_reference: ON CONFLICT
		err = fmt.Errorf("%w: the target needs a unique index on the columns of the replica identity: %w", ErrTable, err)
	}
	return err
}

// unfit is a change that cannot be applied, whatever the server says.
type unfit struct{ error }

// itemError marks the error as item i's if it is at fault.
func itemError(i int, err error) error {
	var u unfit
	if errors.As(err, &u) {
		return &pipeline.RefusedError{Item: i, Err: err}
	}
	return err
}
