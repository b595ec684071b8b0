package walchan

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walchan/walchan/internal/dial"
	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/pgsql"
)

// Option changes what Subscribe does. Options cannot fail; Subscribe checks them all together and names every wrong one
// (ErrOptions).
type Option func(*config)

type config struct {
	connString string // parsed for each connection

	slot         string
	createSlot   bool
	waitForSlot  bool
	terminateOld bool
	failover     bool

	logicalConfig
	physicalConfig
	resumeConfig
	snapshot snapshotConfig
	timing

	bounds

	connect func(context.Context, *pgconn.Config) error
	log     *slog.Logger
	onState func(Stats)
}

// logicalConfig is what is asked of the output plugin: see protocol.go.
type logicalConfig struct {
	publications        []string
	skippedPublications bool // see pubgap.go
	plugin              string
	pluginArgs          map[string]string
	transactions        bool

	streaming, twoPhase, binary bool
	origin                      string
	spoolMemory                 int
	spoolDir                    string
	spoolSet                    bool
}

// physicalConfig is for SubscribePhysical: see physical.go.
type physicalConfig struct {
	physical      bool
	wholeSegments bool
	walFrom       LSN
	walTimeline   uint32
}

// resumeConfig says from where to where a stream goes: see checkpoint.go and span.go.
type resumeConfig struct {
	checkpoint     func(context.Context) (Checkpoint, error)
	checkpoints    bool
	checkpointRead bool // before Subscribe
	anew           bool // SubscribeAnew has dropped the slot
	proof          proofWanted
	upgradedFrom   string
	upgraded       bool

	from, until LSN // 0: not given
	untilNow    bool
}

// bounds are how much may wait for the consumer.
type bounds struct {
	messages, bytes int // in the buffer
	maxUnacked      int
}

// timing is how long what may take.
type timing struct {
	statusInterval time.Duration
	receiveTimeout time.Duration
	drainTimeout   time.Duration
	closeTimeout   time.Duration
	retry          func() backoff.BackOff
}

const pgoutputPlugin = "pgoutput"

func newConfig(opts []Option) *config {
	cfg := &config{
		logicalConfig: logicalConfig{plugin: pgoutputPlugin, pluginArgs: map[string]string{}, spoolMemory: 64 << 20},
		snapshot:      snapshotConfig{jobs: 2},
		timing:        timing{drainTimeout: 10 * time.Second, closeTimeout: 5 * time.Second, retry: defaultRetry},
		bounds:        bounds{messages: 64, bytes: 8 << 20, maxUnacked: 1 << 20},
		connect:       func(context.Context, *pgconn.Config) error { return nil },
		log:           slog.Default(),
		onState:       func(Stats) {},
	}
	for _, o := range opts {
		o(cfg)
	}
	return cfg
}

// WithSlot streams from the replication slot of that name, which remembers what is confirmed. Without it a temporary slot
// with a generated name is used, which begins now, and whose loss with its connection is permanent (ErrSlotLost): good for
// a quick look.
func WithSlot(name string) Option { return func(c *config) { c.slot = name } }

// WithCreateSlot makes the slot, a permanent one, if it does not exist. It then begins now, and from now on the server keeps
// WAL for it until it is dropped (admin.Conn.DropSlot). Only Subscribe does it, never a reconnect, where a new slot would hide a
// gap. It waits for the end of the transactions that are running (CREATE_REPLICATION_SLOT in the PostgreSQL
// documentation), which can be long; the context ends the wait. If Subscribe fails, it leaves no slot that it has made:
// it cancels the statement on the server and drops the slot, which can take a few seconds.
func WithCreateSlot() Option { return func(c *config) { c.createSlot = true } }

// WithPublication streams the changes of these publications, which must exist: admin.Conn.EnsurePublication makes one. The server looks at
// a publication as it was at each change. If one did not exist yet at a change that is still to come, or was dropped for a while, the
// stream ends there with ErrPublicationMissing, which says how to go on; WithSkippedPublications overrides that.
func WithPublication(names ...string) Option {
	return func(c *config) { c.publications = append(c.publications, names...) }
}

// WithPlugin streams what another output plugin writes, such as test_decoding or wal2json, undecoded: as Raw messages,
// overriding the default of pgoutput. args are the plugin's options.
//
// For test_decoding and for wal2json's format version 2 the stream knows where transactions end, and confirms those ends.
// Of other plugins it confirms positions message by message, and delivers again after a reconnect what was not confirmed.
func WithPlugin(name string, args map[string]string) Option {
	return func(c *config) {
		c.plugin = name
		maps.Copy(c.pluginArgs, args)
	}
}

// WithPluginOption adds one option of the output plugin to START_REPLICATION, overriding what walchan says of it: the way to
// an option that has no function here. Of an empty value nothing is sent but the name, which some plugins take for "on".
func WithPluginOption(name, value string) Option {
	return func(c *config) { c.pluginArgs[name] = value }
}

// WithTransactions delivers Begin and Commit as well. Each needs its acknowledgement, as every message does.
func WithTransactions() Option { return func(c *config) { c.transactions = true } }

// WithStreaming has the server send large transactions while they are in progress (its option streaming), overriding the
// default of sending them at their commit. Large is what exceeds the server's logical_decoding_work_mem. C shows no
// difference: whole transactions, in commit order, and of savepoints that are rolled back nothing. But a large
// transaction is complete soon after its commit, for the server need not read and send it then. Until the commit the
// stream keeps it: see WithSpool.
//
// One difference cannot be helped: a transactional message (pg_logical_emit_message) from a savepoint that was rolled
// back may be delivered, if it is the first that was written there.
//
// It needs nothing newer than PostgreSQL 14. WithPluginOption("streaming", "parallel") asks for the form of PostgreSQL 16,
// which tells the server's own subscribers more, but nothing that is of use here.
func WithStreaming() Option { return func(c *config) { c.streaming = true } }

// WithSpool sets how many bytes of transactions that are not complete are kept in memory, overriding the default of 64 MiB,
// and where the rest goes, overriding the system's directory of temporary files (os.TempDir), which may itself be in
// memory. The memory is for all such transactions together, and at least 1 MiB; what exceeds it goes to temporary files,
// that only their owner may read, and that are in no directory where the system allows that. When such a file cannot be
// written, for the disk is full, the stream ends with ErrSpool.
func WithSpool(memory int, dir string) Option {
	return func(c *config) { c.spoolMemory, c.spoolDir, c.spoolSet = memory, dir, true }
}

// WithTwoPhase has the server send a transaction that is prepared (PREPARE TRANSACTION) at that time, overriding the default
// of sending it like any other when it is committed. PostgreSQL 15 or later does that.
//
// Its changes come where it was prepared, with a Tx that has the GID: they are not committed yet, and may never be. What
// became of them is told by a CommitPrepared or RollbackPrepared with the same Tx.GID and Tx.XID, of which one comes for each,
// also without WithTransactions; with it, Begin and Prepare enclose the changes. Acknowledge them as they come: a
// transaction that was acknowledged at its PREPARE is not sent again, also to another process, only its outcome is. So whoever
// acts at the COMMIT PREPARED only must store the changes until then.
//
// Three things to expect: a CommitPrepared or RollbackPrepared of a transaction of which nothing was delivered; a
// transaction that was rolled back before it could be sent, with fewer changes than it had; and changes that come together
// with their CommitPrepared, in one transaction, because they were prepared before two-phase was switched on.
//
// A slot made by WithCreateSlot has two-phase on; for one that exists it is switched on, and stays so: from then on it
// cannot be streamed from without this option. With a checkpoint it is not switched on while the slot is behind that (ErrOptions).
func WithTwoPhase() Option { return func(c *config) { c.twoPhase = true } }

// WithFailover makes a slot that WithCreateSlot or WithSnapshot makes one of which standbys keep copies, with which a stream goes
// on after a fail-over: PostgreSQL 17 or later; see "Logical Replication Failover" in its documentation for what is to be
// set on the servers. A slot that exists is used as it is.
func WithFailover() Option { return func(c *config) { c.failover = true } }

// WithBinary has the server send values in their types' binary formats where there is one, overriding the default of text.
// Row.Value, Scan and JSON give the same for both, but of the few types whose binary format is not known here (see Row.Value);
// Row.Text gives what was sent. It saves the server and Scan some time with numbers, timestamps and bytea, and costs
// some with others.
func WithBinary() Option { return func(c *config) { c.binary = true } }

// WithOrigin has the server leave out what it has itself received by replication (origin "none"), overriding the default of
// sending all ("any"): for two databases that follow one another, where a change would go round in circles. Replicated is
// what was written in a session with a replication origin (pg_replication_origin_session_setup; a subscription has one); of
// what is sent Tx.Origin has its name. PostgreSQL 16 or later does that.
func WithOrigin(origin string) Option { return func(c *config) { c.origin = origin } }

// WithBuffer bounds what lies between the server and the consumer, overriding the default of 64 messages and 8 MiB,
// whichever is reached first. One message may exceed the bytes. More messages do not make it faster.
func WithBuffer(messages, bytes int) Option {
	return func(c *config) { c.messages, c.bytes = messages, bytes }
}

// WithMaxUnacked bounds how many messages may be delivered from the oldest unacknowledged one on, overriding the default
// of 1<<20. Then delivery waits, and Stats says StateUnacked: a message whose acknowledgement was forgotten is found
// here at the latest.
func WithMaxUnacked(n int) Option { return func(c *config) { c.maxUnacked = n } }

// WithStatusInterval sets how often the server is told the positions when they do not move, overriding the default of a
// sixth of its wal_sender_timeout, between 100 ms and 10 s. It must be well below half of wal_sender_timeout.
func WithStatusInterval(d time.Duration) Option { return func(c *config) { c.statusInterval = d } }

// WithReceiveTimeout sets after what silence a connection is taken for dead, overriding the default of the server's
// wal_sender_timeout (60 s if that is 0). At half of it the server is asked for a sign of life.
func WithReceiveTimeout(d time.Duration) Option { return func(c *config) { c.receiveTimeout = d } }

// WithDrainTimeout sets how long a stream whose context is cancelled waits for the acknowledgement of what it has
// delivered, overriding the default of 10 s. 0: not at all.
func WithDrainTimeout(d time.Duration) Option { return func(c *config) { c.drainTimeout = d } }

// WithRetry sets the delays between attempts to reconnect, overriding the default of 100 ms to 30 s, doubling, with
// jitter, for ever. f is called at each outage. When its BackOff returns backoff.Stop the failure becomes permanent; mind
// that backoff.NewExponentialBackOff stops after 15 minutes unless told otherwise.
func WithRetry(f func() backoff.BackOff) Option { return func(c *config) { c.retry = f } }

// WithConnect calls f before each connection with a copy of its configuration, to change it: a password that rotates, a
// DialFunc, an OnNotice for the server's notices, which are logged otherwise. An error counts as a failed attempt.
func WithConnect(f func(context.Context, *pgconn.Config) error) Option {
	return func(c *config) { c.connect = f }
}

// WithLogger sets where the stream logs, overriding slog.Default(). It never logs row data nor secrets.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.log = l } }

// WithStateHook calls f when the stream's state changes, and at each attempt to reconnect: for metrics and alerts. f is
// called by the goroutine that keeps the connection alive: it must be quick, and must not call Close or Flush.
func WithStateHook(f func(Stats)) Option { return func(c *config) { c.onState = f } }

// WithWaitForSlot has Subscribe wait, until its context ends, while another client is streaming from the slot, instead
// of returning ErrSlotActive after 2 s, which a process that has just ended may need to be gone. A second process then is a hot
// standby, that takes over when the first one is gone. It
// looks at the slot about once a second, over a replication connection that counts for max_wal_senders, and takes over within
// 2 s. It logs for whom it waits at first, when that changes, and at growing intervals. Other errors end the wait.
func WithWaitForSlot() Option { return func(c *config) { c.waitForSlot = true } }

// WithTerminateOld terminates the walsender of a connection that this stream has lost, if it still holds the slot when the
// stream comes back, instead of waiting until the server notices (wal_sender_timeout). It is known to be our own by its
// process ID and start time. The role needs no more rights for that than it has.
func WithTerminateOld() Option { return func(c *config) { c.terminateOld = true } }

// validate names everything that is wrong at once. streaming: not only a slot is concerned.
func (c *config) validate(streaming bool) error {
	var problems []string
	wrong := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf(format, args...))
	}
	if _, err := dial.Parse(c.connString); err != nil {
		wrong("%v", err)
	}
	if c.slot != "" && !pgsql.IsSlotName(c.slot) {
		wrong("%s", pgsql.NotSlotName(c.slot))
	}
	if c.createSlot && c.slot == "" {
		wrong("WithCreateSlot needs WithSlot: a slot without a name is temporary and always made")
	}
	switch {
	case !pgsql.IsName(c.plugin):
		wrong("WithPlugin(%q): not a name of 1 to 63 bytes", c.plugin)
	case c.plugin != pgoutputPlugin && len(c.publications) > 0:
		wrong("WithPublication belongs to pgoutput, not to the plugin %s", c.plugin)
	case c.plugin != pgoutputPlugin && c.transactions:
		wrong("WithTransactions belongs to pgoutput: the plugin %s writes its own", c.plugin)
	case streaming && c.plugin == pgoutputPlugin && len(c.publications) == 0 && c.pluginArgs["publication_names"] == "":
		wrong("WithPublication is missing: name the publications to stream (EnsurePublication of package admin makes one)")
	}
	for _, p := range c.publications {
		if !pgsql.IsName(p) {
			wrong("WithPublication(%q): not a name of 1 to 63 bytes", p)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.pluginArgs)) {
		if !pgsql.IsName(k) || strings.ContainsRune(c.pluginArgs[k], 0) {
			wrong("the output plugin's option %q: not a name of 1 to 63 bytes, or a value with a zero byte", k)
		}
	}
	problems = append(problems, c.protocolProblems(streaming)...)
	problems = append(problems, c.physicalProblems()...)
	problems = append(problems, c.spanProblems()...)
	problems = append(problems, c.checkpointProblems()...)
	problems = append(problems, c.snapshotProblems()...)
	if c.messages < 1 || c.bytes < 1 {
		wrong("WithBuffer(%d, %d): both must be at least 1", c.messages, c.bytes)
	}
	if c.maxUnacked < 1 {
		wrong("WithMaxUnacked(%d): must be at least 1", c.maxUnacked)
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"WithStatusInterval", c.statusInterval}, {"WithReceiveTimeout", c.receiveTimeout}, {"WithDrainTimeout", c.drainTimeout},
	} {
		if d.d < 0 {
			wrong("%s(%v): must not be negative", d.name, d.d)
		}
	}
	if c.statusInterval > 0 && c.receiveTimeout > 0 && c.statusInterval > c.receiveTimeout/2 {
		wrong("WithStatusInterval(%v): must be at most half of WithReceiveTimeout(%v)", c.statusInterval, c.receiveTimeout)
	}
	if c.retry == nil {
		wrong("WithRetry(nil): leave it out for the default")
	}
	if c.connect == nil {
		wrong("WithConnect(nil): leave it out")
	}
	if c.onState == nil {
		wrong("WithStateHook(nil): leave it out")
	}
	if c.terminateOld && c.slot == "" {
		wrong("WithTerminateOld needs WithSlot: a temporary slot is gone with its connection")
	}
	if c.failover && c.slot == "" {
		wrong("WithFailover needs WithSlot: a temporary slot has no copies")
	}
	if c.waitForSlot && c.slot == "" {
		wrong("WithWaitForSlot needs WithSlot: a temporary slot is nobody else's")
	}
	if c.log == nil {
		wrong("WithLogger(nil): use slog.New(slog.DiscardHandler) for silence")
	}
	return invalid(problems...)
}

// invalid is the error of wrong arguments; nil if there is none.
func invalid(problems ...string) error { return pgfail.Invalid(problems...) }

// startArgs returns the options of the output plugin.
func (c *config) startArgs() map[string]string {
	if c.plugin == pgoutputPlugin {
		return c.pgoutputArgs()
	}
	return c.pluginArgs
}
