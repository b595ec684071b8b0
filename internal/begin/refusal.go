package begin

import (
	"context"
	"fmt"

	"github.com/walchan/walchan/internal/pgfail"
	"github.com/walchan/walchan/internal/slots"
	"github.com/walchan/walchan/internal/sqlstate"
	"github.com/walchan/walchan/walerr"
)

// Slot is the slot of a stream. Its methods explain why the server has refused it.
type Slot struct {
	Name        string
	Plugin      string // of a logical one
	Checkpoints bool   // the consumer stores them
	Standby     bool   // the server is in recovery
}

// Missing is the error of a logical slot that does not exist.
func (s *Slot) Missing(err error) error {
	e := slots.Missing(s.Name, err)
	if s.Checkpoints {
		e.Advice = "a new one would leave a gap: copy the tables again (SubscribeAnew, with WithSnapshot)"
	}
	return e
}

// Refused translates the refusal of START_REPLICATION. Some SQLSTATEs have several meanings: then the slot tells.
func (s *Slot) Refused(ctx context.Context, query slots.Querying, err error) error {
	what := fmt.Sprintf("start replication from slot %q", s.Name)
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return slots.Active(ctx, query, s.Name, err)
	case state == sqlstate.UndefinedObject:
		return s.Missing(err)
	case s.Standby && (state == sqlstate.NotPrerequisite || state == sqlstate.FeatureNotSupported):
		return slots.InRecovery(what, err)
	case state == sqlstate.NotPrerequisite:
		slot, lookErr := slots.Read(ctx, query, s.Name)
		if lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return slots.Invalidated(s.Name, "", err)
		}
	case state == sqlstate.UndefinedFile:
		return slots.MissingPlugin(s.Plugin, err)
	case slots.IsOptionRefused(sqlstate.Error(err)):
		return &walerr.Error{Kind: walerr.PluginOption, What: fmt.Sprintf("the output plugin %q refuses an option", s.Plugin), Err: err,
			Advice: "correct it (WithPlugin, WithPluginOption)"}
	}
	return pgfail.Failed(what, err)
}

// RefusedPhysical is the same for a physical stream. name is "" of one without a slot.
func RefusedPhysical(ctx context.Context, query slots.Querying, name string, err error) error {
	switch state := sqlstate.Of(err); {
	case state == sqlstate.ObjectInUse:
		return slots.Active(ctx, query, name, err)
	case state == sqlstate.UndefinedObject:
		return slots.MissingPhysical(name, err)
	case state == sqlstate.NotPrerequisite && name != "": // a lost slot, from PostgreSQL 18 on
		if slot, lookErr := slots.Read(ctx, query, name); lookErr == nil && slot != nil && slot.WALStatus == "lost" {
			return WALRemoved(err)
		}
	}
	return pgfail.Failed("start physical replication", err)
}
