package main

import (
	"context"
	"slices"

	"github.com/walchan/walchan"
)

// slots are those of the consumers. In this process run a stream and one of another plugin. In processes that are killed run one
// with a journal, one with checkpoints, and the sinks.
var slots = []string{"stream", "raw", "child", "checkpoint", "files", "writer", "postgres", "jetstream", "kafka"}

const inThisProcess = 2 // of slots

// checkpointed are the consumers with checkpoints.
var checkpointed = map[string]bool{"checkpoint": true, "postgres": true, "jetstream": true}

func checkpointedSlots() []string {
	return slices.DeleteFunc(slices.Clone(slots), func(s string) bool { return !checkpointed[s] })
}

// makeSlots makes the slots before the traffic begins. The consumer "checkpoint" makes its own.
func (c *chaos) makeSlots(ctx context.Context) (err error) {
	for _, name := range slots {
		if name == "checkpoint" {
			continue
		}
		if c.from[name], err = c.makeSlot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// makeSlot makes a slot on the primary, and returns where it begins.
func (s *source) makeSlot(ctx context.Context, name string) (walchan.LSN, error) {
	plugin, failover := "pgoutput", ""
	if name == "raw" {
		plugin = "test_decoding"
	}
	if s.synchronises() {
		failover = ", failover => true"
	}
	at, err := s.query(ctx, "SELECT lsn FROM pg_create_logical_replication_slot('"+name+"', '"+plugin+"'"+failover+")")
	if err != nil {
		return 0, err
	}
	return walchan.ParseLSN(at)
}

// awaitSlot waits until a consumer has made its slot.
func (s *source) awaitSlot(ctx context.Context, name string) error {
	if err := until(ctx, s.cluster, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '"+name+"'"); err != nil {
		return found("%s does not make its slot: %w", name, err)
	}
	return nil
}

// remakeSlots makes slots again.
func (s *source) remakeSlots(ctx context.Context, names ...string) error {
	if err := s.dropSlots(ctx, names...); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := s.makeSlot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) dropSlots(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := s.query(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+name+"'"); err != nil {
			return err
		}
	}
	return nil
}
