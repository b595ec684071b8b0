package pgfail

import (
	"fmt"
	"strings"

	"github.com/walchan/walchan/walerr"
)

// oldestServer is the oldest version with all that is asked of pgoutput (the messages option came with 14).
const oldestServer = 140000

// Supported fails if the server is too old for anything. version is server_version_num, and text the version as the server says it.
func Supported(version int, text string) error {
	if version == 0 || version >= oldestServer {
		return nil
	}
	text, _, _ = strings.Cut(text, " ")
	return &walerr.Error{Kind: walerr.ServerVersion, What: "server version " + text + " is not supported", Advice: "PostgreSQL 14 or later is"}
}

// Needs appends a message to missing if the server is older than major. version is server_version_num; 0 means that it is not known.
func Needs(missing []string, version int, feature string, major int) []string {
	if version == 0 || version/10000 >= major {
		return missing
	}
	return append(missing, fmt.Sprintf("%s needs PostgreSQL %d or later", feature, major))
}

// TooOld is the error of a server that lacks features; nil if none is missing. text is its version as it says it.
func TooOld(missing []string, text string) error {
	if missing == nil {
		return nil
	}
	text, _, _ = strings.Cut(text, " ")
	return &walerr.Error{Kind: walerr.ServerVersion, What: strings.Join(missing, ", ") + "; this is " + text, Advice: "upgrade the server, or do without"}
}
