// Package wal has the position that all packages of walchan share.
package wal

import "github.com/jackc/pglogrepl"

// LSN is a position in the write-ahead log, printed as PostgreSQL prints it ("16/B374D848"). It is an alias, so that
// positions go to and from pglogrepl without conversion.
type LSN = pglogrepl.LSN

// End stands for the end of the server's WAL at the time of the call.
const End LSN = 1<<64 - 1

// ParseLSN reads PostgreSQL's notation of a position.
func ParseLSN(s string) (LSN, error) { return pglogrepl.ParseLSN(s) }
