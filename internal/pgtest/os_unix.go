//go:build linux || darwin

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

const (
	sigTerm = syscall.SIGTERM
	sigInt  = syscall.SIGINT
	sigQuit = syscall.SIGQUIT
	sigKill = syscall.SIGKILL
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// maxSocketPath is what fits into sockaddr_un.sun_path everywhere: 104 bytes with the final 0 on macOS, 108 on Linux.
const maxSocketPath = 103

func supported() error {
	_, err := serverUser()
	return err
}

// serverUser is the user the server runs as; nil is our own. PostgreSQL refuses to run as root, and initdb to run as a
// user that has no name.
var serverUser = sync.OnceValues(func() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
			gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
		}
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and neither user postgres nor nobody exists")
})

// asServer makes cmd run as the server's user, in a session of its own.
func asServer(cmd *exec.Cmd) {
	ownSession(cmd)
	cmd.SysProcAttr.Credential, _ = serverUser() // New has seen the error
}

func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func giveToServer(path string) error {
	u, err := serverUser()
	if u == nil {
		return err
	}
	return os.Chown(path, int(u.Uid), int(u.Gid))
}

func kill(pid int, sig os.Signal) error {
	err := syscall.Kill(pid, sig.(syscall.Signal))
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// makeDir makes a cluster's directory: in base, or if that is "" in the best of the places that will do. A socket's path may be
// too long in TMPDIR, or the server's user not get there.
func makeDir(base string) (string, error) {
	if base != "" {
		return makeDirIn(base)
	}
	var errs error
	for _, base := range []string{memory(), os.TempDir(), "/tmp"} {
		if base == "" {
			continue
		}
		dir, err := makeDirIn(base)
		if err == nil {
			return dir, nil
		}
		errs = errors.Join(errs, err)
	}
	return "", errs
}

// memory is Linux's file system in memory if it has room and TMPDIR names no other place. There a cluster takes a third of
// the time to make.
func memory() string {
	const dir, room = "/dev/shm", 4 << 30
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(dir, &fs) != nil || int64(fs.Bavail)*int64(fs.Bsize) < room {
		return ""
	}
	return dir
}

func makeDirIn(base string) (string, error) {
	dir, err := os.MkdirTemp(base, "pgtest-")
	if err != nil {
		return "", err
	}
	if err := usable(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func usable(dir string) error {
	if socket := filepath.Join(dir, ".s.PGSQL.65535"); len(socket) > maxSocketPath {
		return fmt.Errorf("%s: longer than the path of a Unix socket may be", socket)
	}
	if err := giveToServer(dir); err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", ":")
	cmd.Dir = dir // entered as the server's user
	asServer(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("as the server's user: %w", err)
	}
	return nil
}
