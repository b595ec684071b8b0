package pgoutput

import (
	"maps"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgsql"
)

// Options are what is asked of pgoutput when a stream begins: PostgreSQL documentation, "Logical Streaming Replication Parameters".
type Options struct {
	Publications                []string
	Streaming, TwoPhase, Binary bool
	Origin                      string
	Given                       map[string]string // by name; they override all else
}

// Args returns the options of START_REPLICATION.
func (o *Options) Args() map[string]string {
	names := make([]string, len(o.Publications))
	for i, p := range o.Publications {
		names[i] = pgsql.Quoted(p)
	}
	args := map[string]string{"publication_names": strings.Join(names, ","), "messages": "true"}
	for arg, on := range map[string]bool{"streaming": o.Streaming, "two_phase": o.TwoPhase, "binary": o.Binary} {
		if on {
			args[arg] = "on"
		}
	}
	if o.Origin != "" {
		args["origin"] = o.Origin
	}
	maps.Copy(args, o.Given)
	if args["proto_version"] == "" {
		version := 1
		for _, f := range Asked(args) {
			version = f.Protocol
		}
		args["proto_version"] = strconv.Itoa(version)
	}
	return args
}

// Feature is something that pgoutput does from a version of its protocol, and of PostgreSQL, on.
type Feature struct {
	Name     string
	isAsked  func(args map[string]string) bool
	Protocol int
	Server   int
}

// Asked returns the features that are asked for, in the order of the protocol versions they need.
func Asked(args map[string]string) (all []Feature) {
	for _, f := range []Feature{
		{"origin", func(args map[string]string) bool { return args["origin"] != "" }, 1, 16},
		{"streaming", func(args map[string]string) bool { return IsOn(args["streaming"]) }, 2, 14},
		{"two-phase", func(args map[string]string) bool { return IsOn(args["two_phase"]) }, 3, 15},
		{"streaming = parallel", IsParallel, 4, 16},
	} {
		if f.isAsked(args) {
			all = append(all, f)
		}
	}
	return all
}

// IsParallel says whether transactions in progress are asked for in the form that can be applied in parallel.
func IsParallel(args map[string]string) bool { return strings.EqualFold(args["streaming"], "parallel") }

// IsOn reads an option as the server does (parse_bool in src/backend/utils/adt/bool.c): it may be abbreviated.
func IsOn(value string) bool {
	v := strings.ToLower(value)
	return v != "" && v != "0" && !strings.HasPrefix("false", v) && !strings.HasPrefix("no", v) && (v == "o" || !strings.HasPrefix("off", v))
}
