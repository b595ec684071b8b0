package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgtest"
	"github.com/walchan/walchan/pipeline/postgres"
)

// targetKilled and a target's name is how often that was killed, in the report.
const targetKilled = "  killed: "

// A target is what a sink writes to: a server that is killed, behind a network that fails.
type target struct {
	name   string // of the sink that writes to it
	kills  int
	proxy  *proxy
	url    string // through the proxy
	direct string // past it, of those with a child
	server *child // nil: a cluster of PostgreSQL
	kill   func() error
	start  func(context.Context) error
	close  func()
	amount func(context.Context) string // of what it holds; nil: not known
}

// holdings are what the consumers write to. After a loss all of it is made anew.
type holdings struct {
	targets    []*target
	replica    *pgtest.Cluster        // of the sink postgres
	generation int                    // how often the targets were made
	from       map[string]walchan.LSN // by slot: where the consumer's target begins
	totals     map[string]*total      // by slot
}

// startTargets starts the servers.
func (c *chaos) startTargets(ctx context.Context) error {
	err := errors.Join(c.startPostgres(ctx), c.startServer(ctx, "jetstream", "nats", "nats://"), c.startServer(ctx, "kafka", "broker", ""))
	if err != nil {
		return err
	}
	// The broker is a fake that forgets what it has of a producer when it is killed, which one of Kafka does not, and takes
	// records twice and in another order: it is only put out of reach.
	k := c.target("kafka")
	k.kill = func() error { k.proxy.refuse(true); return nil }
	k.start = func(context.Context) error { k.proxy.refuse(false); return nil }
	c.target("jetstream").amount = c.amountOfJetStream
	return nil
}

// renewTargets empties what the sinks write to, or has a new one. PostgreSQL's is a copy of the source.
func (c *chaos) renewTargets(ctx context.Context) error {
	broker := c.target("kafka").server
	if err := errors.Join(broker.signal(ctx, syscall.SIGKILL), broker.start()); err != nil {
		return err
	}
	if err := broker.reached.wait(ctx, broker.order.Life); err != nil {
		return err
	}
	if _, err := query(ctx, c.replica, "CREATE DATABASE "+c.replicaDatabase()); err != nil {
		return err
	}
	if err := c.preparePostgres(ctx, c.copyRows); err != nil {
		return err
	}
	t := c.target("postgres")
	t.url = c.replicaURL(t.proxy.port())
	return nil
}

func (c *chaos) replicaDatabase() string {
	if c.generation == 1 {
		return "postgres"
	}
	return fmt.Sprint("generation_", c.generation)
}

// replicaDSN is past the network that fails, replicaURL through it.
func (c *chaos) replicaDSN() string { return c.replica.SocketDSN("dbname=" + c.replicaDatabase()) }

func (c *chaos) replicaURL(port int) string {
	return c.replica.DSN(fmt.Sprintf("port=%d", port), "connect_timeout=5", "dbname="+c.replicaDatabase())
}

// copyRows copies the rows of the source into the replica.
func (c *chaos) copyRows(ctx context.Context) error {
	source, err := pgconn.Connect(ctx, c.cluster.SocketDSN())
	if err != nil {
		return err
	}
	defer source.Close(ctx)
	replica, err := pgconn.Connect(ctx, c.replicaDSN())
	if err != nil {
		return err
	}
	defer replica.Close(ctx)
	for table, columns := range map[string]string{"accounts": "id, tx, amount, v, note", "documents": "id, tx, at, body", "scratch": "id, tx", "marker": "id", "ledger": "tx, changes"} {
		var rows bytes.Buffer
		if _, err := source.CopyTo(ctx, &rows, fmt.Sprintf("COPY %s (%s) TO STDOUT", table, columns)); err != nil {
			return err
		}
		if _, err := replica.CopyFrom(ctx, &rows, fmt.Sprintf("COPY %s (%s) FROM STDIN", table, columns)); err != nil {
			return err
		}
	}
	return nil
}

// amountOfJetStream is how many messages there are, past the network that fails.
func (c *chaos) amountOfJetStream(ctx context.Context) string {
	nc, err := nats.Connect(c.target("jetstream").direct)
	if err != nil {
		return ""
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return ""
	}
	stream, err := js.Stream(ctx, natsStream(c.generation))
	if err != nil {
		return ""
	}
	return fmt.Sprint(stream.CachedInfo().State.LastSeq)
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

func (h *holdings) target(name string) *target {
	for _, t := range h.targets {
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
	if err := c.addTarget(addressOf(c.replica), t, c.replicaURL); err != nil {
		return err
	}
	return c.preparePostgres(ctx, func(context.Context) error { return nil })
}

// preparePostgres makes the tables, has fill fill them, and makes the triggers.
func (c *chaos) preparePostgres(ctx context.Context, fill func(context.Context) error) error {
	// A sink makes the table with its position, for which there is a trigger, too.
	s, err := postgres.Open(ctx, c.replicaDSN())
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		return err
	}
	if err := c.runInReplica(ctx, tables); err != nil {
		return err
	}
	if err := fill(ctx); err != nil {
		return err
	}
	return c.runInReplica(ctx, audit())
}

func (c *chaos) runInReplica(ctx context.Context, statements []string) error {
	for _, sql := range statements {
		if _, err := queryDSN(ctx, c.replicaDSN(), sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// startServer starts a server in a process of its own, on a port that stays. Its files are beside those of the replica, in
// memory where there is room: a process that is killed loses nothing there either.
func (c *chaos) startServer(ctx context.Context, sink, name, scheme string) error {
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		return err
	}
	port, err := pgtest.FreePort()
	if err != nil {
		return err
	}
	k := &child{order: childOrder{Slot: name, DSN: fmt.Sprint(port), Target: filepath.Join(filepath.Dir(c.replica.DataDir()), name)}, log: log, reached: newMilestone()}
	t := &target{name: sink, server: k,
		kill: func() error { return k.signal(context.Background(), syscall.SIGKILL) },
		start: func(ctx context.Context) error {
			if err := k.start(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return k.reached.wait(ctx, k.order.Life)
		},
		close: k.end}
	if err := t.start(ctx); err != nil {
		t.close()
		return fmt.Errorf("start %s: %w", name, err)
	}
	t.direct = fmt.Sprintf("%s127.0.0.1:%d", scheme, port)
	return c.addTarget(fmt.Sprintf("127.0.0.1:%d", port), t, func(port int) string { return fmt.Sprintf("%s127.0.0.1:%d", scheme, port) })
}

// servers are children that are no consumers. Each says its life's number once it can be used.
var servers = map[string]func(port int, dir string) error{"nats": beNATS, "broker": beBroker}

func beServer(order childOrder) error {
	port, err := strconv.Atoi(order.DSN)
	if err == nil {
		err = servers[order.Slot](port, order.Target)
	}
	if err != nil {
		return err
	}
	fmt.Println(order.Life)
	select {}
}

func beNATS(port int, dir string) error {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		return errors.New("the NATS server does not start")
	}
	return nil
}

func beBroker(port int, _ string) error {
	_, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port),
		kfake.SeedTopics(4, "accounts", "documents", "ledger"), kfake.SeedTopics(1, "scratch", "marker"))
	return err
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
			IF NEW.commit_lsn > '0/0' AND (TG_OP = 'INSERT' OR (NEW.commit_lsn, NEW.ordinal) > (OLD.commit_lsn, OLD.ordinal)) THEN
				INSERT INTO audit (op, version) VALUES ('POSITION', NEW.commit_lsn || ':' || NEW.ordinal);
			END IF; -- else there was nothing but a checkpoint
			RETURN NULL;
		END $$`,
		"CREATE TRIGGER audit AFTER INSERT OR UPDATE ON walchan_position FOR EACH ROW EXECUTE FUNCTION audit_position()")
}
