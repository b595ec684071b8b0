package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
)

// succession describes the earlier primaries.
type succession struct {
	queue    []fault        // fail-overs to come
	history  *reference     // what the primary has of its predecessors
	lost     int            // committed transactions that a successor did not have
	refusals map[string]int // by kind
	wrong    []string       // beside the verdicts
}

// predecessor is an earlier primary.
type predecessor struct {
	*pgtest.Cluster
	fork walchan.LSN // where its successor has left its history
	sure []int64     // numbers of the committed transactions
	lost int         // how many of these the successor lacks
}

func (p *predecessor) describe() string {
	return fmt.Sprintf("forked at %s, %d committed transactions lost", p.fork, p.lost)
}

// succeed promotes the standby of a primary that is dead, while the gate is closed, and opens the gate. With early the consumers
// reach the standby while it is in recovery. prepare is called before anything is written.
func (c *chaos) succeed(ctx context.Context, early bool, prepare func(context.Context) error) (*predecessor, error) {
	defer c.traffic.gate.Unlock()
	old := &predecessor{Cluster: c.cluster, sure: c.traffic.takeSure()}
	if early {
		c.lead(c.standby)
		sleep(ctx, c.between(0, 500*time.Millisecond))
	}
	if err := c.standby.Promote(ctx); err != nil {
		return nil, err
	}
	c.cluster, c.standby = c.standby, nil
	c.traffic.dsn = c.cluster.SocketDSN()
	var err error
	if old.fork, err = forkOf(ctx, c.cluster); err != nil {
		return nil, err
	}
	if _, err := c.query(ctx, makeReference); err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(ctx); err != nil {
			return nil, err
		}
	}
	c.lead(c.cluster)
	c.say("the standby is promoted")
	return old, nil
}

// forkOf returns where a promoted server has left the history of its primary.
func forkOf(ctx context.Context, s *pgtest.Cluster) (walchan.LSN, error) {
	timeline, err := query(ctx, s, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
	if err != nil {
		return 0, err
	}
	content, err := os.ReadFile(filepath.Join(s.DataDir(), "pg_wal", timeline+".history"))
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) < 2 {
		return 0, fmt.Errorf("the history of timeline %s is %q", timeline, content)
	}
	return walchan.ParseLSN(fields[1])
}

// bequeath reads what happened on an earlier primary, and makes a new standby. It starts that primary where no consumer finds it.
// It returns everything that the consumers may have.
func (c *chaos) bequeath(ctx context.Context, old *predecessor) (*reference, error) {
	if err := old.Start(ctx); err != nil {
		return nil, err
	}
	own, err := readReference(ctx, old.SocketDSN())
	if err != nil {
		return nil, err
	}
	c.retire(old.Cluster)
	c.say("the earlier primary is read: %d messages", len(own.published))
	all := c.history.join(own)
	c.history = c.history.join(own.cut(old.fork))
	for _, tx := range old.sure {
		number := fmt.Sprint(tx)
		if _, ok := own.ledger[number]; !ok {
			c.wrong = append(c.wrong, fmt.Sprintf("transaction %d was committed and is not in the reference", tx))
		} else if _, ok := c.history.ledger[number]; !ok {
			old.lost++
		}
	}
	c.lost += old.lost
	return all, c.makeStandby(ctx)
}

// makeStandby makes the standby of the next fail-over.
func (c *chaos) makeStandby(ctx context.Context) (err error) {
	opts := []pgtest.Option{pgtest.WithSetting("hot_standby_feedback", "on"), pgtest.WithSetting("wal_retrieve_retry_interval", "100ms")}
	if c.synchronises() {
		opts = append(opts, pgtest.WithSetting("sync_replication_slots", "on"))
	}
	if c.standby, err = c.cluster.NewStandby(ctx, opts...); err != nil {
		return err
	}
	c.servers = append(c.servers, c.standby.DataDir())
	c.say("there is a standby")
	if !c.synchronises() {
		return nil
	}
	// Without this setting the consumers could receive something that the standby lacks.
	slot, err := query(ctx, c.standby, "SHOW primary_slot_name")
	if err == nil {
		err = until(ctx, c.cluster, "SELECT active FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	}
	if err != nil {
		return err
	}
	return set(ctx, c.cluster, "synchronized_standby_slots", slot)
}

// cutOff separates the standby from the primary.
func (c *chaos) cutOff(ctx context.Context) error {
	if c.synchronises() {
		if err := set(ctx, c.cluster, "synchronized_standby_slots", ""); err != nil {
			return err
		}
	}
	if err := set(ctx, c.standby, "primary_conninfo", ""); err != nil {
		return err
	}
	return until(ctx, c.standby, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
}

// awaitSynchronised waits until the standby has a permanent copy of each slot. A new copy becomes permanent when the consumer has
// confirmed more.
func (c *chaos) awaitSynchronised(ctx context.Context) error {
	c.heal()
	ctx, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	for {
		n, err := query(ctx, c.standby, "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL")
		if err != nil {
			return fmt.Errorf("the slots are not synchronised: %w", err)
		}
		if n == fmt.Sprint(len(slots)) {
			c.say("the slots are synchronised")
			return nil
		}
		if _, err := c.query(ctx, "SELECT pg_log_standby_snapshot()"); err != nil { // slots need it to move on
			return fmt.Errorf("the slots are not synchronised: %w", err)
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// settle waits until all consumers have confirmed everything. The gate is closed.
func (c *chaos) settle(ctx context.Context) (string, error) {
	at, err := c.query(ctx, "SELECT pg_current_wal_lsn()")
	if err == nil {
		err = c.catchUp(ctx) // it writes a row after that position
	}
	if err == nil {
		err = until(ctx, c.cluster, fmt.Sprintf("SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name IN ('%s') AND confirmed_flush_lsn < '%s'", strings.Join(slots, "', '"), at))
	}
	return at, err
}

// retire removes a server. Its log stays.
func (c *chaos) retire(s *pgtest.Cluster) {
	if s == nil {
		return
	}
	name := fmt.Sprintf("server-%d.log", 1+slices.Index(c.servers, s.DataDir()))
	_ = os.WriteFile(filepath.Join(c.dir, name), []byte(s.Log()), 0o600)
	if err := s.Close(); err != nil {
		fmt.Fprintln(c.out, err)
	}
}
