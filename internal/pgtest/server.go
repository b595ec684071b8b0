package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// server is one run of the postmaster.
type server struct {
	postmaster *os.Process
	exited     chan struct{} // closed by wait
}

func (s *server) wait() {
	_, _ = s.postmaster.Wait() // its log says more than its exit status
	close(s.exited)
}

func (s *server) running() bool {
	if s == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Mode is how a server stops.
type Mode string

const (
	Smart     Mode = "smart"     // waits for the clients to leave
	Fast      Mode = "fast"      // disconnects them, those of walsenders only once they have confirmed all WAL
	Immediate Mode = "immediate" // leaves recovery to the next start
)

// https://www.postgresql.org/docs/current/server-shutdown.html
var stopSignals = map[Mode]os.Signal{Smart: sigTerm, Fast: sigInt, Immediate: sigQuit}

var errPortTaken = errors.New("the port is taken")

// Start starts a server that is not running, on the port it had, and returns when it takes connections.
func (c *Cluster) Start(ctx context.Context) error {
	if c.server.running() {
		return errors.New("pgtest: start: the server is running")
	}
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	logged := len(c.Log())
	cmd := c.command("postgres", "-D", c.DataDir())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pgtest: start the server: %w", err)
	}
	c.server = &server{cmd.Process, make(chan struct{})}
	go c.server.wait()
	err = c.watcher.tell(cmd.Process.Pid)
	if err == nil {
		err = c.ready(ctx)
	}
	if err == nil {
		return nil
	}
	err = errors.Join(err, c.Stop(context.WithoutCancel(ctx), Immediate))
	said := c.Log()[logged:]
	if strings.Contains(said, "could not create any TCP/IP sockets") {
		err = errors.Join(errPortTaken, err)
	}
	return fmt.Errorf("pgtest: start the server: %w; it logged:\n%s", err, lastLines(said, 20))
}

// ready waits for the server to say in its pid file that it takes connections. pg_ctl waits in the same way: see
// wait_for_postmaster_start in src/bin/pg_ctl/pg_ctl.c, LOCK_FILE_LINE_PM_STATUS in src/include/miscadmin.h.
func (c *Cluster) ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		b, _ := os.ReadFile(filepath.Join(c.DataDir(), "postmaster.pid")) // not there at first
		lines := strings.Split(string(b), "\n")
		if len(lines) > 7 && lines[0] == fmt.Sprint(c.server.postmaster.Pid) { // else left by a killed one
			if status := strings.TrimSpace(lines[7]); status == "ready" || status == "standby" {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-c.server.exited:
			return errors.New("it exited")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// startOnFreePort is the first start. A port that is free when asked may be taken when the server asks for it.
func (c *Cluster) startOnFreePort(ctx context.Context) (err error) {
	for range 20 {
		if c.port, err = FreePort(); err != nil {
			break
		}
		if err = c.configure(); err != nil {
			break
		}
		if err = c.Start(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return fmt.Errorf("pgtest: %w", err)
}

// FreePort picks a port below the range from which systems take the local ports of outgoing connections: there, one of
// them may take the port while the server is stopped, and a client that dials again and again connects to itself.
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := 10000 + rand.IntN(20000)
		var l net.Listener
		if l, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// Stop stops the server and returns when it is gone, or when ctx ends: then it goes on stopping, and Stop may be called
// again with a mode that is more severe. It is no error if the server is not running.
func (c *Cluster) Stop(ctx context.Context, mode Mode) error {
	if c.server == nil {
		return nil
	}
	if err := c.server.signal(stopSignals[mode]); err != nil {
		return fmt.Errorf("pgtest: %s stop: %w", mode, err)
	}
	select {
	case <-c.server.exited:
		c.server = nil
		return c.watcher.tell(0)
	case <-ctx.Done():
		return fmt.Errorf("pgtest: %s stop: %w", mode, context.Cause(ctx))
	}
}

// Restart is Stop and Start.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	if err := c.Stop(ctx, mode); err != nil {
		return err
	}
	return c.Start(ctx)
}

// Kill kills the postmaster and its children with SIGKILL, as a crash of the machine would (except that what was written
// without fsync is not lost). Start recovers.
func (c *Cluster) Kill() error {
	if c.server == nil {
		return nil
	}
	if err := c.server.kill(); err != nil {
		return fmt.Errorf("pgtest: kill: %w", err)
	}
	c.server = nil
	return c.watcher.tell(0)
}

// Pause stops the processes of the server with SIGSTOP: connections stay open, and nothing answers. The kernel still accepts
// new connections until the backlog is full. Returns once all are stopped.
func (c *Cluster) Pause() error {
	if !c.server.running() {
		return errors.New("pgtest: pause: the server is not running")
	}
	if err := c.server.freeze(); err != nil {
		return fmt.Errorf("pgtest: pause: %w", err)
	}
	children, err := c.server.children()
	if err != nil {
		return fmt.Errorf("pgtest: pause: %w", err)
	}
	pids := []int{c.server.postmaster.Pid}
	for _, p := range children {
		pids = append(pids, p.pid)
	}
	return c.watcher.tell(pids...)
}

// Resume lets a paused server go on.
func (c *Cluster) Resume() error {
	if c.server == nil {
		return nil
	}
	if err := c.server.thaw(); err != nil {
		return fmt.Errorf("pgtest: resume: %w", err)
	}
	return nil
}

// command is one of PostgreSQL's programs run as the server's user, in a session of its own (a Ctrl-C at the terminal is
// not for the server) and without the environment variables that libpq heeds.
func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(c.programs.path(name), args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "TZ=UTC")
	cmd.Dir = c.dir
	asServer(cmd)
	return cmd
}

// run runs one of PostgreSQL's programs to its end.
func (c *Cluster) run(ctx context.Context, name string, args ...string) error {
	cmd := c.command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		defer stop()
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", name, errors.Join(err, context.Cause(ctx)), strings.TrimSpace(out.String()))
	}
	return nil
}
