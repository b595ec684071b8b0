// Package sqlstate has what the server's errors say apart from their texts, which may be in any language.
package sqlstate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs (PostgreSQL documentation, appendix "PostgreSQL Error Codes").
const (
	ProtocolViolation   = "08P01"
	FeatureNotSupported = "0A000"
	InvalidParameter    = "22023"
	UniqueViolation     = "23505"
	ReadOnly            = "25006"
	InvalidPassword     = "28P01"
	InvalidCatalog      = "3D000"
	Deadlock            = "40P01"
	NoPrivilege         = "42501"
	SyntaxError         = "42601"
	InvalidName         = "42602"
	UndefinedColumn     = "42703"
	UndefinedObject     = "42704"
	DuplicateObject     = "42710"
	WrongObjectType     = "42809"
	UndefinedTable      = "42P01"
	TooManyConns        = "53300"
	ConfigLimit         = "53400"
	NotPrerequisite     = "55000"
	ObjectInUse         = "55006"
	LockNotAvailable    = "55P03"
	CantChangeParameter = "55P02"
	QueryCanceled       = "57014"
	AdminShutdown       = "57P01"
	CrashShutdown       = "57P02"
	CannotConnectNow    = "57P03"
	DatabaseDropped     = "57P04"
	UndefinedFile       = "58P01"
	Internal            = "XX000"
)

// Error returns the server's error in err, or nil.
func Error(err error) *pgconn.PgError {
	var pg *pgconn.PgError
	errors.As(err, &pg)
	return pg
}

// Of returns the SQLSTATE of the server's error in err, or "".
func Of(err error) string {
	if pg := Error(err); pg != nil {
		return pg.Code
	}
	return ""
}

// Withheld is an error of the server whose message may quote a value: a row filter can fail on a row with
// "date field value out of range: 0-01-01".
type Withheld struct{ PG *pgconn.PgError }

func (w Withheld) Error() string {
	return fmt.Sprintf("SQLSTATE %s, with a message that may quote data", w.PG.Code)
}

// Unwrap returns the error of the server.
func (w Withheld) Unwrap() error { return w.PG }

// QuotesData says whether an error while streaming may. The classes that are named are about other things.
func QuotesData(pg *pgconn.PgError) bool {
	return !strings.Contains(" 08 0A 28 3D 42 53 54 55 57 58 XX ", " "+pg.Code[:min(2, len(pg.Code))]+" ")
}
