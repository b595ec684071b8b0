package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline/postgres"
)

// targetKilled and a target's name is how often that was killed, in the report.
const targetKilled = "  killed: "

// A target is what a sink writes to: a server that is killed, behind a network that fails.
type target struct {
	name  string // of the sink that writes to it
	kills int
	proxy *proxy
	url   string // through the proxy
	kill  func() error
	start func(context.Context) error
	close func()
}

// startTargets starts the servers.
func (c *chaos) startTargets(ctx context.Context) error {
	for _, start := range []func(context.Context) error{c.startPostgres, c.startNATS, c.startKafka} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// addTarget puts a proxy before a server.
func (c *chaos) addTarget(address string, t *target, url func(port int) string) (err error) {
	if t.proxy, err = newProxy(address); err != nil {
		t.close()
		return err
	}
	t.url = url(t.proxy.port())
	c.targets = append(c.targets, t)
	return nil
}

func (c *chaos) target(name string) *target {
	for _, t := range c.targets {
		if t.name == name {
			return t
		}
	}
	return nil
}

// startPostgres starts a second cluster, with the tables, and triggers that write down what becomes of their rows.
func (c *chaos) startPostgres(ctx context.Context) (err error) {
	if c.replica, err = pgtest.New(ctx); err != nil {
		return err
	}
	t := &target{name: "postgres", kill: c.replica.Kill, start: c.replica.Start, close: func() {
		_ = os.WriteFile(filepath.Join(c.dir, "replica.log"), []byte(c.replica.Log()), 0o600)
		if err := c.replica.Close(); err != nil {
			fmt.Fprintln(c.out, err)
		}
	}}
	err = c.addTarget(fmt.Sprintf("127.0.0.1:%d", c.replica.Port()), t, func(port int) string {
		return c.replica.DSN(fmt.Sprintf("port=%d", port), "connect_timeout=5")
	})
	if err != nil {
		return err
	}
	// A sink makes the table with its position, for which there is a trigger, too.
	id, err := query(ctx, c.cluster, "SELECT system_identifier FROM pg_control_system()")
	if err != nil {
		return err
	}
	s, err := postgres.Open(ctx, c.replica.SocketDSN(), walchan.Source{SystemID: id, Database: "postgres", Slot: "postgres"})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		return err
	}
	for _, sql := range slices.Concat(tables, audit()) {
		if _, err := query(ctx, c.replica, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// startNATS starts a NATS server in a process of its own, that syncs each message to its file. The file is beside those of
// the cluster, which are in memory where there is room: a killed process loses nothing there either.
func (c *chaos) startNATS(ctx context.Context) error {
	log, err := os.Create(filepath.Join(c.dir, "nats.log"))
	if err != nil {
		return err
	}
	port, err := pgtest.FreePort()
	if err != nil {
		return err
	}
	store := filepath.Join(filepath.Dir(c.cluster.DataDir()), "nats")
	c.nats = &child{order: childOrder{Slot: natsServer, DSN: fmt.Sprint(port), Target: store}, log: log, reached: newMilestone()}
	t := &target{name: "jetstream",
		kill: func() error { return c.nats.signal(context.Background(), syscall.SIGKILL) },
		start: func(ctx context.Context) error {
			if err := c.nats.start(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return c.nats.reached.wait(ctx, c.nats.order.Life)
		},
		close: c.nats.end}
	if err := t.start(ctx); err != nil {
		t.close()
		return fmt.Errorf("start NATS: %w", err)
	}
	return c.addTarget(fmt.Sprintf("127.0.0.1:%d", port), t, func(port int) string { return fmt.Sprintf("nats://127.0.0.1:%d", port) })
}

// natsServer is a child that is no consumer, but a server of NATS.
const natsServer = "nats"

// beNATS runs the server until it is killed, and says its life's number once it can be used.
func beNATS(order childOrder) error {
	port, err := strconv.Atoi(order.DSN)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: order.Target, SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		return errors.New("the NATS server does not start")
	}
	fmt.Println(order.Life)
	select {}
}

// startKafka starts a fake cluster in this process: one that is killed loses what it has said to have, whatever its options.
// So it is only out of reach when it would be killed.
func (c *chaos) startKafka(context.Context) error {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "accounts", "documents", "ledger"), kfake.SeedTopics(1, "scratch", "marker"))
	if err != nil {
		return err
	}
	c.broker = fake.ListenAddrs()[0]
	t := &target{name: "kafka", close: fake.Close}
	t.kill = func() error { t.proxy.refuse(true); return nil }
	t.start = func(context.Context) error { t.proxy.refuse(false); return nil }
	return c.addTarget(c.broker, t, func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) })
}

// audit is what the replica writes down of each row that is inserted, updated or deleted, and of each batch's position behind
// these.
func audit() []string {
	sql := []string{
		"ALTER TABLE accounts ADD extra int", // columns that the source has now and then
		"ALTER TABLE documents ADD extra int",
		"CREATE TABLE audit (n bigserial PRIMARY KEY, op text, row text, version text)",
	}
	for table, columns := range identifying {
		version := func(row string) string {
			parts := make([]string, len(columns))
			for i, name := range columns {
				parts[i] = fmt.Sprintf("coalesce(%s.%s::text, 'null')", row, name)
			}
			return "concat_ws(' ', " + strings.Join(parts, ", ") + ")"
		}
		sql = append(sql, fmt.Sprintf(`CREATE FUNCTION audit_%[1]s() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF TG_OP = 'TRUNCATE' THEN
					INSERT INTO audit (op, row) VALUES (TG_OP, '%[1]s');
				ELSIF TG_OP = 'UPDATE' AND OLD IS NOT DISTINCT FROM NEW THEN
					INSERT INTO audit (op, row) VALUES ('NOTHING', '%[1]s ' || NEW.%[2]s);
				ELSE
					IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.%[2]s <> NEW.%[2]s THEN
						INSERT INTO audit (op, row) VALUES ('DELETE', '%[1]s ' || OLD.%[2]s);
					END IF;
					IF TG_OP <> 'DELETE' THEN
						INSERT INTO audit (op, row, version) VALUES (TG_OP, '%[1]s ' || NEW.%[2]s, %[3]s);
					END IF;
				END IF;
				RETURN NULL;
			END $$`, table, columns[0], version("NEW")),
			fmt.Sprintf("CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %[1]s FOR EACH ROW EXECUTE FUNCTION audit_%[1]s()", table),
			fmt.Sprintf("CREATE TRIGGER audit_all AFTER TRUNCATE ON %[1]s EXECUTE FUNCTION audit_%[1]s()", table))
	}
	return append(sql, `CREATE FUNCTION audit_position() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO audit (op, version) VALUES ('POSITION', NEW.commit_lsn || ':' || NEW.ordinal);
			RETURN NULL;
		END $$`,
		"CREATE TRIGGER audit AFTER UPDATE ON walchan_position FOR EACH ROW EXECUTE FUNCTION audit_position()")
}
