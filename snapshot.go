package walchan

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walchan/walchan/internal/begin"
	"github.com/walchan/walchan/internal/pgsql"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/snapshot"
	"github.com/walchan/walchan/internal/tables"
	"github.com/walchan/walchan/internal/value"
)

// Existing rows first.
//
// A temporary slot is made, which exports a snapshot: exactly what was committed before the slot's first change. Workers, each
// with a connection of its own, share the snapshot and read the tables' rows; the owner delivers them. Only once all are
// acknowledged is the temporary slot copied to the permanent one. So the presence of that says that the snapshot is
// complete, and nothing else need remember it: whatever dies before leaves nothing behind.
//
// The connection that has made the slot must stay idle, for the snapshot goes with its next command. When it breaks, all
// starts over. When that of a worker does, the worker reads on where it was: the rows that a snapshot shows stand still.
//
// In the ledger a snapshot has one mark, after its last message, for consumers that store checkpoints. Nothing is confirmed.

// Snapshot is what a SnapshotBegin or SnapshotEnd is about.
type Snapshot struct {
	// Tables are those whose rows are read. Their rows' messages have the same Relations.
	Tables []*Relation `json:"tables"`

	// Attempt is 1 at first. Each time the snapshot is lost with its connection the next SnapshotBegin has a higher one: then the
	// rows start over, and all that were delivered since the first SnapshotBegin are void. Some of them may not exist any more.
	Attempt int `json:"attempt"`

	// Among says that the rows come among the changes: see Stream.ReadRows.
	Among bool `json:"among,omitempty"`

	at *resume.Place // what the checkpoint of its message says; nil: it has none
}

// Snapshot returns what a SnapshotBegin or SnapshotEnd is about; nil otherwise. It must not be changed.
func (m Message) Snapshot() *Snapshot {
	s, _ := m.ext.(*Snapshot)
	return s
}

// SnapshotTable chooses tables of the publications for WithSnapshot.
type SnapshotTable struct {
	// Name is that of a table as in SQL (shop.orders, shop."Order"), in which * stands for any characters (shop.*, *_log).
	// Without a schema it is one that the search_path finds.
	Name string

	// Columns are those to read; none: all that the publication has. They must be among these, and have those of the replica
	// identity among them.
	Columns []string

	// Where is an SQL condition for the rows to read, in addition to that of the publication; "": all rows. The changes
	// that follow know nothing of it.
	Where string
}

type snapshotConfig struct {
	wanted  bool
	choices []SnapshotTable
	jobs    int
	keys    bool
}

// WithSnapshot has the stream begin with the rows that exist: a SnapshotBegin, a Read for each row, a SnapshotEnd, and then the
// changes, without a gap or an overlap between. It makes the slot; one that exists already is ErrSlotExists, unless
// WithCreateSlot is given too: then the snapshot is taken if the slot has to be made, and otherwise was taken before.
//
// The slot is made, all at once, when every message up to SnapshotEnd is acknowledged. Until then a process that ends, for
// whatever reason, leaves nothing behind, and the next one begins anew. When the connection breaks meanwhile, the rows start over
// in the same stream: see Snapshot.Attempt. Mind WithMaxUnacked.
//
// The tables are those of the publications, or those of them that are named; their columns and rows are those that the
// publications have (column lists, row filters, the root of a partitioned table with publish_via_partition_root). So views,
// foreign and unlogged tables have no part in it, for they cannot be published, also not as partitions. What the role may
// not read is ErrPermission, with the names of all such tables, before the first row comes.
//
// While the rows are read the server's VACUUM can remove no rows that were deleted since, and tables cannot be altered; and until
// all are acknowledged the server keeps its WAL. The order of the rows is not defined.
//
// A smart stop of the server (pg_ctl stop -m smart) waits until all rows are acknowledged and the slot is made, as it waits for
// pg_dump. If a connection that reads rows breaks meanwhile, the server refuses another one: the snapshot is then given up, and
// starts over when the server is back. A fast stop always gives it up.
func WithSnapshot(tables ...SnapshotTable) Option {
	return func(c *config) {
		c.snapshot.wanted = true
		c.snapshot.choices = append(c.snapshot.choices, tables...)
	}
}

// WithSnapshotJobs sets how many connections read the rows of a snapshot at the same time, overriding the default of 2. Large
// tables are split between them. There are two connections more while it lasts: one that holds the snapshot, and one that
// keeps the tables from being altered.
func WithSnapshotJobs(n int) Option { return func(c *config) { c.snapshot.jobs = n } }

// WithSnapshotKeys has Subscribe refuse a snapshot (ErrTableKey) of tables without a replica identity, for the rows of such
// tables cannot be told apart, and the server refuses to UPDATE and DELETE them: all are named.
func WithSnapshotKeys() Option { return func(c *config) { c.snapshot.keys = true } }

func (c *config) snapshotProblems() (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.snapshot.jobs < 1 {
		wrong("WithSnapshotJobs(%d): must be at least 1", c.snapshot.jobs)
	}
	if !c.snapshot.wanted {
		return problems
	}
	if c.plugin != pgoutputPlugin {
		wrong("WithSnapshot belongs to pgoutput, not to the plugin %s", c.plugin)
	} else if len(c.publications) == 0 {
		wrong("WithSnapshot needs WithPublication: it reads the tables of the publications")
	}
	for _, t := range c.snapshot.choices {
		if _, err := pgsql.ParsePattern(t.Name); err != nil {
			wrong("WithSnapshot: %v", err)
		}
		if strings.ContainsRune(t.Where, 0) || slices.ContainsFunc(t.Columns, func(c string) bool { return !pgsql.IsName(c) }) {
			wrong("WithSnapshot: a column of %s is not a name of 1 to 63 bytes, or its condition has a zero byte", t.Name)
		}
	}
	return problems
}

// snapshotRun is one attempt: from the temporary slot on, until the stream begins.
type snapshotRun struct {
	begin.Exported
	rows    *snapshot.Snapshot // nil: it has none
	info    *Snapshot
	ended   bool      // SnapshotEnd was delivered
	checkAt time.Time // when to look at the connections
}

// checkEvery is how often it is looked whether the connections that hold a snapshot are broken.
const checkEvery = time.Second

// beginSnapshot begins an attempt: it finds what is to be read.
func (o *owner) beginSnapshot(c *connection, e *begin.Exported) error {
	p := &snapshotRun{Exported: *e, info: &Snapshot{}}
	c.snapshot = p
	if !o.snapshots.Bare {
		if err := p.plan(o.ctx, c, o); err != nil {
			return err
		}
	}
	o.snapshots.Attempt++
	p.info.Attempt = o.snapshots.Attempt
	c.Status.Since = time.Now()
	o.gauge.snapshot.Store(p)
	return nil
}

// plan finds what is to be read.
func (p *snapshotRun) plan(ctx context.Context, c *connection, o *owner) error {
	cfg := o.cfg
	p.rows = snapshot.New(snapshot.Request{Publications: cfg.publications, Choices: choicesOf(cfg.snapshot.choices), Keys: cfg.snapshot.keys,
		Jobs: cfg.snapshot.jobs, Binary: cfg.binary, Types: o.types, Slot: o.source.Slot, Log: cfg.log, Retry: cfg.retry, Wake: o.wake},
		p.Name, p.From, c.OrdinaryConfig)
	if err := p.rows.Plan(ctx); err != nil {
		return err
	}
	for _, t := range p.rows.Tables {
		rel := relationOf(t.Table, o.types)
		t.Owner = rel
		p.info.Tables = append(p.info.Tables, rel)
	}
	return nil
}

// relationOf returns the relation of a table that no stream has described.
func relationOf(d *tables.Table, t *value.Types) *Relation {
	r := &Relation{OID: d.OID, Schema: d.Schema, Name: d.Name, ReplicaIdentity: ReplicaIdentity(d.Identity), Columns: make([]Column, len(d.Columns))}
	for i, a := range d.Columns {
		r.Columns[i] = Column{Name: a.Name, Key: a.Key, TypeOID: a.TypeOID, TypeMod: a.TypeMod}
	}
	r.bind(t)
	return r
}

func choicesOf(chosen []SnapshotTable) []tables.Choice {
	all := make([]tables.Choice, len(chosen))
	for i, t := range chosen {
		all[i] = tables.Choice(t)
	}
	return all
}

// TableProgress is how much of a table's rows a snapshot has delivered.
type TableProgress struct {
	Table          string `json:"table"` // as Relation.String has it
	Rows           int64  `json:"rows"`
	EstimatedRows  int64  `json:"estimated_rows,omitempty"` // by the statistics of the last ANALYZE or VACUUM; 0: not known
	Bytes          int64  `json:"bytes"`                    // of the rows, as COPY sends them
	EstimatedBytes int64  `json:"estimated_bytes"`          // the table's size on disk, which is what is read: Bytes come to less, or to more
	Done           bool   `json:"done"`
}

func (p *snapshotRun) progress() []TableProgress {
	if p == nil || p.rows == nil {
		return nil
	}
	var all []TableProgress
	for _, t := range p.rows.Tables {
		all = append(all, progressOf(t)...)
	}
	return all
}

func progressOf(t *snapshot.Table) []TableProgress {
	if t == nil {
		return nil
	}
	return []TableProgress{{t.String(), t.Rows.Load(), t.EstimatedRows, t.Bytes.Load(), t.EstimatedBytes, t.Left.Load() == 0}}
}
