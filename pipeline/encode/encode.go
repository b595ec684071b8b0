// Package encode writes messages in the formats that consumers of PostgreSQL's changes know.
//
// An encoder is a value with a method
//
//	Append(b []byte, m walchan.Message) ([]byte, error)
//
// that appends the message to b, as append does, so that one buffer serves for all; it may be used by several goroutines. What
// it appends is one line without a line break at its end. There are three exceptions:
//
//   - a Truncate of several tables is a line for each, with line breaks between them;
//   - a mark between changes that the format does not have, such as the Begin of a transaction, is nothing;
//   - a change that the format has no form for is an error: ErrKind.
//
// Rows are what row_to_json makes of them (see walchan.Row.AppendJSON for the few exceptions), in the order of the columns.
//
// A value that cannot be encoded is an error that names its column, a *walchan.ColumnError. After an error b is what it was.
package encode

import (
	"errors"
	"fmt"

	"github.com/walchan/walchan"
)

var (
	// ErrKind is found in the error of a message of a kind that the format has no form for.
	ErrKind = errors.New("the format has no form for this kind of message")

	// ErrBinary is found in the error of a row with a value in binary format (walchan.WithBinary), where the format wants its text.
	ErrBinary = errors.New("the value came in binary format")

	// ErrRange is found in the error of a row with a date or timestamp that Avro's types do not have: infinity, -infinity, and
	// timestamps later than the year 292,000.
	ErrRange = errors.New("the type in Avro has no such value")
)

func unsupported(format string, m walchan.Message) error {
	return fmt.Errorf("%s: %w: %s", format, ErrKind, m)
}

func columnError(r walchan.Row, i int, err error) error {
	rel := r.Relation()
	return &walchan.ColumnError{Table: rel.String(), Column: rel.Columns[i].Name, Type: rel.Columns[i].TypeName, Reason: err.Error(), Err: err}
}

// hasKey says whether the table has a replica identity.
func hasKey(rel *walchan.Relation) bool {
	for i := range rel.Columns {
		if rel.Columns[i].Key {
			return true
		}
	}
	return false
}

// hasOld says whether there is an old row.
func hasOld(m walchan.Message) bool { return m.Old().Identity() != walchan.NoIdentity }
