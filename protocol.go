package walchan

import (
	"fmt"
	"strconv"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgoutput"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/txn"
)

// pgoutputArgs returns the options of START_REPLICATION. What WithPluginOption says overrides all else.
func (c *config) pgoutputArgs() map[string]string {
	o := pgoutput.Options{Publications: c.publications, Streaming: c.streaming, TwoPhase: c.twoPhase, Binary: c.binary, Origin: c.origin, Given: c.pluginArgs}
	return o.Args()
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

// isTwoPhase says whether transactions are asked for when they are prepared.
func (c *config) isTwoPhase() bool {
	return c.twoPhase || c.plugin == pgoutputPlugin && pgoutput.IsOn(c.pgoutputArgs()["two_phase"])
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
		case given && !pgoutput.IsOn(value):
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
		for _, f := range pgoutput.Asked(args) {
			if version < f.Protocol {
				wrong("%s and WithPluginOption(%q, %q) exclude one another: it needs version %d", f.Name, "proto_version", c.pluginArgs["proto_version"], f.Protocol)
			}
		}
	}
	switch {
	case !c.spoolSet:
	case c.plugin != pgoutputPlugin || !pgoutput.IsOn(args["streaming"]) && !pgoutput.IsOn(args["two_phase"]):
		wrong("WithSpool has nothing to keep without WithStreaming or WithTwoPhase")
	case c.spoolMemory < minSpool:
		wrong("WithSpool(%d, %q): the memory must be at least 1 MiB (1<<20)", c.spoolMemory, c.spoolDir)
	}
	if c.plugin == pgoutputPlugin && pgoutput.IsOn(args["streaming"]) {
		if err := txn.TryDir(c.spoolDir); err != nil { // now, not in the middle of the first large transaction
			wrong("WithSpool: a temporary file cannot be made: %v", err)
		}
	}
	return problems
}

const minSpool = 1 << 20

// checkVersion fails if the server is too old for what is asked of it. version is server_version_num, 0 if it is not known.
func (c *config) checkVersion(version int, text string) error {
	if err := pgfail.Supported(version, text); err != nil {
		return err
	}
	var missing []string
	if c.plugin == pgoutputPlugin {
		for _, f := range pgoutput.Asked(c.pgoutputArgs()) {
			missing = pgfail.Needs(missing, version, f.Name, f.Server)
		}
	}
	if c.failover {
		missing = pgfail.Needs(missing, version, "failover", slots.FailoverServer)
	}
	return pgfail.TooOld(missing, text)
}
