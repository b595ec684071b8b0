package pgfail

import (
	"fmt"

	"github.com/walchan/walchan/wal"
	"github.com/walchan/walchan/walerr"
)

// ReportIt is the advice for what a server should not send.
const ReportIt = "nothing behind it was delivered or confirmed; report it with the server's version"

// Malformed is the error of a message of the server's that cannot be decoded.
func Malformed(at wal.LSN, err error) *walerr.Error {
	return &walerr.Error{Kind: walerr.Protocol, What: fmt.Sprintf("the server's data at %s", at), Err: err, Advice: ReportIt}
}

// Unexpected is the error of a message that cannot stand where it does.
func Unexpected(what string) *walerr.Error {
	return &walerr.Error{Kind: walerr.Protocol, What: "unexpected " + what, Advice: ReportIt}
}
