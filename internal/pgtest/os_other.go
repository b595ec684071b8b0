//go:build !linux && !darwin

package pgtest

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// Only what supported says is ever run here; the rest lets the package compile, for those who import it.

const (
	sigTerm = syscall.SIGTERM
	sigInt  = syscall.SIGINT
	sigQuit = syscall.SIGQUIT
	sigKill = syscall.SIGKILL
	sigStop = syscall.SIGKILL
	sigCont = syscall.SIGKILL
)

func supported() error {
	return errors.New("throwaway PostgreSQL clusters need Linux or macOS (on Windows: WSL)")
}

func asServer(*exec.Cmd)             {}
func ownSession(*exec.Cmd)           {}
func giveToServer(string) error      { return supported() }
func kill(int, os.Signal) error      { return supported() }
func makeDir(string) (string, error) { return "", supported() }
