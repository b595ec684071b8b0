package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// process is one in the system's table.
type process struct {
	pid, parent int
	state       byte // as ps shows it: T is stopped, Z has ended but is not yet waited for
}

// children returns the processes the postmaster started. It starts all of a server's processes itself.
func (s *server) children() ([]process, error) {
	all, err := processes()
	var found []process
	for _, p := range all {
		if p.parent == s.postmaster.Pid {
			found = append(found, p)
		}
	}
	return found, err
}

// signal signals the postmaster. That it is gone is no error.
func (s *server) signal(sig os.Signal) error {
	err := s.postmaster.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// signalChildren signals every child and waits until each of them is in one of the states.
func (s *server) signalChildren(sig os.Signal, states string) error {
	children, err := s.children()
	if err != nil {
		return err
	}
	for _, p := range children {
		if err := kill(p.pid, sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	return await(func() (bool, error) {
		children, err := s.children()
		for _, p := range children {
			if !strings.Contains(states, string(p.state)) {
				return false, err
			}
		}
		return true, err
	})
}

// freeze stops the postmaster, which starts no children from then on, and then those it has.
func (s *server) freeze() error {
	if err := s.signal(sigStop); err != nil {
		return err
	}
	err := await(func() (bool, error) {
		all, err := processes()
		for _, p := range all {
			if p.pid == s.postmaster.Pid {
				return p.state == 'T', err
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	return s.signalChildren(sigStop, "TZ")
}

func (s *server) thaw() error {
	children, err := s.children()
	for _, p := range children {
		if e := kill(p.pid, sigCont); !errors.Is(e, os.ErrProcessDone) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, s.signal(sigCont))
}

// kill kills the children while the postmaster is stopped and cannot react, and then the postmaster.
func (s *server) kill() error {
	if err := s.freeze(); err != nil {
		return err
	}
	if err := s.signalChildren(sigKill, "Z"); err != nil {
		return err
	}
	if err := s.signal(sigKill); err != nil {
		return err
	}
	<-s.exited
	return nil
}

// await polls what the system has no event for.
func await(done func() (bool, error)) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the server's processes do not react to signals")
		}
	}
}

// processes lists all processes: from /proc where it is Linux's, otherwise by ps, which a minimal Linux does not have.
func processes() ([]process, error) {
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return linuxProcesses()
	}
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,state=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var all []process
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 2 {
			pid, _ := strconv.Atoi(f[0])
			parent, _ := strconv.Atoi(f[1])
			all = append(all, process{pid, parent, f[2][0]})
		}
	}
	return all, nil
}

func linuxProcesses() ([]process, error) {
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range dir {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // not a process
		}
		// pid (name) state ppid …, where the name may have parentheses: proc(5).
		stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat") // it may be gone
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(f) > 1 {
			parent, _ := strconv.Atoi(string(f[1]))
			all = append(all, process{pid, parent, f[0][0]})
		}
	}
	return all, nil
}
