package pgtest

import (
	"fmt"
	"io"
	"os/exec"
)

// A watcher removes a cluster when this process ends, by whatever cause: a shell in a session of its own that reads from
// a pipe of which we hold the other end, and that the kernel closes if we do not. It is told the postmaster's pid with
// each start, and 0 when there is none.
type watcher struct {
	pipe io.WriteCloser
	cmd  *exec.Cmd
}

// A paused server is resumed, or the shutdown would not reach it; its children are killed by the postmaster after five
// seconds (SIGKILL_CHILDREN_AFTER_SECS in src/backend/postmaster/postmaster.c). The postmaster's last deed is to remove its
// pid file; one that stays was a killed server's, whose shared memory, named in the last line but one, is for us to remove.
const watcherScript = `
exec 2>/dev/null
trap '' HUP INT TERM
pid=0
while read -r line; do pid=$line; done
file=$1/data/postmaster.pid
if [ "$pid" != 0 ]; then
	kill -QUIT "$pid"
	kill -CONT "$pid"
	n=0
	while [ "$(sed -n 1p "$file")" = "$pid" ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n + 1)); done
	kill -KILL "$pid"
fi
shm=$(sed -n '7s/.* //p' "$file")
[ -z "$shm" ] || ipcrm -m "$shm"
n=0
until rm -rf "$1" || [ $n -ge 500 ]; do sleep 0.02; n=$((n + 1)); done # something may be writing to it for a moment
[ ! -e "$1" ]
`

func watch(dir string) (*watcher, error) {
	cmd := exec.Command("/bin/sh", "-c", watcherScript, "pgtest-watcher", dir)
	cmd.Dir = "/"
	ownSession(cmd)
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &watcher{pipe, cmd}, nil
}

// tell tells the postmaster's pid.
func (w *watcher) tell(pid int) error {
	if _, err := fmt.Fprintln(w.pipe, pid); err != nil {
		return fmt.Errorf("pgtest: tell the watcher: %w", err)
	}
	return nil
}

// close has the watcher do its work, and waits for it.
func (w *watcher) close() error {
	if w.cmd.ProcessState != nil {
		return nil
	}
	_ = w.pipe.Close()
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("pgtest: remove the cluster: %w", err)
	}
	return nil
}
