//go:build linux || darwin

package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the process that dies: see orphanMain.
func TestMain(m *testing.M) {
	if what := os.Getenv("PGTEST_ORPHAN"); what != "" {
		if err := orphanMain(what); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// orphanMain makes a cluster, tells of it on standard output, and waits for a signal: at SIGINT it asks the server whether it
// has noticed, at SIGKILL there is nothing it could do.
func orphanMain(what string) error {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT)
	ctx := context.Background()
	c, err := New(ctx)
	if err != nil {
		return err
	}
	switch what {
	case "paused":
		err = c.Pause()
	case "killed":
		err = c.Kill()
	case "started again":
		err = errors.Join(c.Kill(), c.Start(ctx), c.Restart(ctx, Fast))
	}
	if err != nil {
		return err
	}
	pid := 0
	if c.server != nil {
		pid = c.server.postmaster.Pid
	}
	file, err := os.ReadFile(filepath.Join(c.DataDir(), "postmaster.pid")) // stays when the postmaster is killed
	if err != nil {
		return err
	}
	shm := strings.Fields(strings.Split(string(file), "\n")[6])[1]
	fmt.Println(pid, c.dir, shm)
	<-interrupted
	fmt.Println(execSQL(ctx, c.DSN(), "SELECT"))
	select {}
}

// No process and no file stays behind when the process that made a cluster dies without a chance to clean up.
func TestNothingOutlivesUs(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"running", "paused", "killed", "started again", "interrupted"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "PGTEST_ORPHAN="+what)
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as the foreground job of a shell
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			lines := bufio.NewScanner(out)
			var pid int
			var dir, shm string
			lines.Scan()
			if _, err := fmt.Sscan(lines.Text(), &pid, &dir, &shm); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			pids := family(t, pid)
			if (pid == 0) != (what == "killed") || pid != 0 && len(pids) < 4 {
				t.Fatalf("the server's processes are %v", pids)
			}
			if what == "interrupted" {
				if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
				if lines.Scan(); lines.Text() != "<nil>" {
					t.Errorf("a Ctrl-C reached the server: %s", lines.Text())
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			deadline := time.Now().Add(30 * time.Second)
			for ; ; time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s outlived us", dir)
				}
			}
			for _, pid := range pids {
				for alive(t, pid) && time.Now().Before(deadline) { // a backend may need a moment longer than the postmaster
					time.Sleep(10 * time.Millisecond)
				}
				if alive(t, pid) {
					t.Errorf("process %d outlived us", pid)
				}
			}
			segments, _ := os.ReadFile("/proc/sysvipc/shm") // Linux only: key, shmid, …
			for line := range strings.Lines(string(segments)) {
				if strings.Fields(line)[1] == shm {
					t.Errorf("shared memory outlived us: %s", line)
				}
			}
		})
	}
}

// family lists those of a postmaster and its children that are alive.
func family(t *testing.T, postmaster int) []int {
	t.Helper()
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, p := range all {
		if postmaster != 0 && p.state != 'Z' && (p.pid == postmaster || p.parent == postmaster) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}
