package walchan

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/txn"
)

// What is asked of pgoutput when a stream begins: PostgreSQL documentation, "Logical Streaming Replication Parameters".

// pgoutputArgs returns the options of START_REPLICATION. What WithPluginOption says overrides all else.
func (c *config) pgoutputArgs() map[string]string {
	names := make([]string, len(c.publications))
	for i, p := range c.publications {
		names[i] = pgsql.Quoted(p)
	}
	args := map[string]string{"publication_names": strings.Join(names, ","), "messages": "true"}
	for _, s := range switches {
		if s.isOn(c) {
			args[s.arg] = "on"
		}
	}
	if c.origin != "" {
		args["origin"] = c.origin
	}
	maps.Copy(args, c.pluginArgs)
	if args["proto_version"] == "" {
		version := 1
		for _, f := range asked(args) {
			version = f.protocol
		}
		args["proto_version"] = strconv.Itoa(version)
	}
	return args
}

// switches are the options that switch on one of pgoutput.
var switches = []struct {
	name, arg string
	isOn      func(*config) bool
}{
	{"WithStreaming", "streaming", func(c *config) bool { return c.streaming }},
	{"WithTwoPhase", "two_phase", func(c *config) bool { return c.twoPhase }},
	{"WithBinary", "binary", func(c *config) bool { return c.binary }},
}

// feature is something that pgoutput does from a version of its protocol, and of PostgreSQL, on.
type feature struct {
	name     string
	isAsked  func(args map[string]string) bool
	protocol int
	server   int
}

// asked returns the features that are asked for, in the order of the protocol versions they need.
func asked(args map[string]string) (all []feature) {
	for _, f := range []feature{
		{"origin", func(args map[string]string) bool { return args["origin"] != "" }, 1, 16},
		{"streaming", func(args map[string]string) bool { return isOn(args["streaming"]) }, 2, 14},
		{"two-phase", func(args map[string]string) bool { return isOn(args["two_phase"]) }, 3, 15},
		{"streaming = parallel", isParallel, 4, 16},
	} {
		if f.isAsked(args) {
			all = append(all, f)
		}
	}
	return all
}

func isParallel(args map[string]string) bool { return strings.EqualFold(args["streaming"], "parallel") }

// isOn reads an option as the server does (parse_bool in src/backend/utils/adt/bool.c): it may be abbreviated.
func isOn(value string) bool {
	v := strings.ToLower(value)
	return v != "" && v != "0" && !strings.HasPrefix("false", v) && !strings.HasPrefix("no", v) && (v == "o" || !strings.HasPrefix("off", v))
}

// isTwoPhase says whether transactions are asked for when they are prepared.
func (c *config) isTwoPhase() bool {
	return c.twoPhase || c.plugin == pgoutputPlugin && isOn(c.pgoutputArgs()["two_phase"])
}

// protocolProblems names the options that exclude one another.
func (c *config) protocolProblems(streaming bool) (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, s := range switches {
		value, given := c.pluginArgs[s.arg]
		switch {
		case !s.isOn(c):
		case s.arg == "two_phase" && !streaming: // a slot of any plugin can have it
		case c.plugin != pgoutputPlugin:
			wrong("%s belongs to pgoutput, not to the plugin %s", s.name, c.plugin)
		case given && !isOn(value):
			wrong("%s and WithPluginOption(%q, %q) exclude one another", s.name, s.arg, value)
		}
	}
	switch value, given := c.pluginArgs["origin"]; {
	case c.origin == "":
	case c.plugin != pgoutputPlugin:
		wrong("WithOrigin belongs to pgoutput, not to the plugin %s", c.plugin)
	case given && value != c.origin:
		wrong("WithOrigin(%q) and WithPluginOption(%q, %q) exclude one another", c.origin, "origin", value)
	}
	args := c.pgoutputArgs()
	if version, err := strconv.Atoi(c.pluginArgs["proto_version"]); err == nil && c.plugin == pgoutputPlugin {
		for _, f := range asked(args) {
			if version < f.protocol {
				wrong("%s and WithPluginOption(%q, %q) exclude one another: it needs version %d", f.name, "proto_version", c.pluginArgs["proto_version"], f.protocol)
			}
		}
	}
	switch {
	case !c.spoolSet:
	case c.plugin != pgoutputPlugin || !isOn(args["streaming"]) && !isOn(args["two_phase"]):
		wrong("WithSpool has nothing to keep without WithStreaming or WithTwoPhase")
	case c.spoolMemory < minSpool:
		wrong("WithSpool(%d, %q): the memory must be at least 1 MiB (1<<20)", c.spoolMemory, c.spoolDir)
	}
	if c.plugin == pgoutputPlugin && isOn(args["streaming"]) {
		if err := txn.TryDir(c.spoolDir); err != nil { // now, not in the middle of the first large transaction
			wrong("WithSpool: a temporary file cannot be made: %v", err)
		}
	}
	return problems
}

const minSpool = 1 << 20

// checkVersion fails if the server is too old for what is asked of it. version is server_version_num, 0 if it is not known.
func (c *config) checkVersion(version int, text string) error {
	if version == 0 {
		return nil
	}
	text, _, _ = strings.Cut(text, " ")
	if version < minServer {
		return &Error{Kind: ErrServerVersion, What: "server version " + text + " is not supported", Advice: "PostgreSQL 14 or later is"}
	}
	var missing []string
	if c.plugin == pgoutputPlugin {
		for _, f := range asked(c.pgoutputArgs()) {
			missing = needs(missing, version, f.name, f.server)
		}
	}
	if c.failover {
		missing = needs(missing, version, "failover", failoverServer)
	}
	return tooOld(missing, text)
}

// needs adds a feature to those that are missing if the server is older than it.
func needs(missing []string, version int, feature string, major int) []string {
	if version == 0 || version/10000 >= major {
		return missing
	}
	return append(missing, fmt.Sprintf("%s needs PostgreSQL %d or later", feature, major))
}

// tooOld is the error of a server that lacks features; nil if none is missing.
func tooOld(missing []string, text string) error {
	if missing == nil {
		return nil
	}
	text, _, _ = strings.Cut(text, " ")
	return &Error{Kind: ErrServerVersion, What: strings.Join(missing, ", ") + "; this is " + text, Advice: "upgrade the server, or do without"}
}

// checkTwoPhase fails if the slot would send prepared transactions that are not asked for: pgoutput of PostgreSQL 15 and later
// does so once the slot has two-phase on, whatever it is told when a stream begins (CreateDecodingContext in
// src/backend/replication/logical/logical.c).
func (c *config) checkTwoPhase(slot *slots.Row, name string, version int) error {
	if !slot.TwoPhase || c.plugin != pgoutputPlugin || c.isTwoPhase() || version/10000 == 14 {
		return nil
	}
	return &Error{Kind: ErrSlotMismatch, What: fmt.Sprintf("slot %q has two-phase on: it sends transactions that are prepared and may not be committed", name),
		Advice: "ask for that with WithTwoPhase, or use another slot"}
}
