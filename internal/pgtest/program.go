package pgtest

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A Program is a process that a test has started.
type Program struct {
	*exec.Cmd
	Out, Err bytes.Buffer // what it has said, once it has ended
}

// Command returns one of PostgreSQL's programs, such as pg_recvlogical. If it is not beside the server's the test is skipped.
func (c *Cluster) Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := os.Stat(c.Bin(name)); err != nil {
		t.Skipf("%s is not installed beside PostgreSQL %d's server", name, c.Version())
	}
	return exec.Command(c.Bin(name), args...)
}

// Launch starts a program. The test's end kills it, and if the test failed what it has said is part of the test's output.
func Launch(t testing.TB, cmd *exec.Cmd) *Program {
	t.Helper()
	p := &Program{Cmd: cmd}
	p.Stdout, p.Stderr = &p.Out, &p.Err
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%q: %s", cmd.Args, &p.Err)
		}
	})
	return p
}

// Kill is kill -9. It does nothing to a program that has ended.
func (p *Program) Kill() {
	if p.ProcessState == nil {
		p.Process.Kill()
		p.Wait()
	}
}

// Stop is Ctrl-C. The program must succeed.
func (p *Program) Stop(t testing.TB) {
	t.Helper()
	p.Process.Signal(os.Interrupt)
	p.End(t)
}

// End waits for the program, which must succeed.
func (p *Program) End(t testing.TB) {
	t.Helper()
	late := time.AfterFunc(time.Minute, func() { p.Process.Kill() })
	defer late.Stop()
	if err := p.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &p.Err)
	}
}
