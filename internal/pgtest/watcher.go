package pgtest

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// A watcher removes a cluster when this process ends, by whatever cause: a shell in a session of its own that reads from
// a pipe of which we hold the other end, and that the kernel closes if we do not. The last line it reads has the pids of the
// postmaster, or 0 while there is none, and of children that are paused.
type watcher struct {
	pipe io.WriteCloser
	cmd  *exec.Cmd
}

// The postmaster's last deed is to remove its pid file. One that stays was a killed server's, whose shared memory, the end
// of its seventh line, is for us to remove (LOCK_FILE_LINE_SHMEM_KEY in src/include/miscadmin.h).
const watcherScript = `
exec 2>/dev/null
trap '' HUP INT TERM
dir=$1
set -- 0
while read -r line; do set -- $line; done
file=$dir/data/postmaster.pid
if [ "$1" != 0 ]; then
	kill -QUIT "$1"
	kill -CONT "$@"
	n=0
	while [ "$(sed -n 1p "$file")" = "$1" ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n + 1)); done
	kill -KILL "$1"
fi
shm=$(sed -n '7s/.* //p' "$file")
[ -z "$shm" ] || ipcrm -m "$shm"
n=0
until rm -rf "$dir" || [ $n -ge 500 ]; do sleep 0.02; n=$((n + 1)); done # something may be writing to it for a moment
[ ! -e "$dir" ]
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

// tell tells the pids.
func (w *watcher) tell(pids ...int) error {
	if _, err := fmt.Fprintln(w.pipe, strings.Trim(fmt.Sprint(pids), "[]")); err != nil {
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
