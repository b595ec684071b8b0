package main

import (
	"os"
)

// output is where lines go.
type output struct {
	name  string
	fsync bool // is wanted
	file  *os.File
	lines []byte // whole lines that are not written yet
	dirty bool   // something is written that is not safe yet
}

// flushAt bytes are written at once: whole lines, so that a process that is killed leaves no half of one.
const flushAt = 64 << 10

func open(name string, fsync bool) (*output, error) {
	o := &output{name: name, fsync: fsync}
	return o, o.open()
}

func (o *output) open() (err error) {
	o.file = os.Stdout
	if o.name != "-" {
		o.file, err = os.OpenFile(o.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	return err
}

func (o *output) line(s string) error {
	o.lines = append(append(o.lines, s...), '\n')
	if len(o.lines) < flushAt {
		return nil
	}
	return o.flush()
}

func (o *output) flush() error {
	if len(o.lines) == 0 {
		return nil
	}
	_, err := o.file.Write(o.lines)
	o.lines, o.dirty = o.lines[:0], true
	return err
}

// sync makes what was written safe, as far as it can be: a pipe or a terminal is no disk.
func (o *output) sync() error {
	if err := o.flush(); err != nil || !o.dirty || !o.fsync {
		return err
	}
	o.dirty = false
	if info, err := o.file.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return o.file.Sync()
}

// reopen lets go of a file that was renamed.
func (o *output) reopen() error {
	if err := o.close(); err != nil {
		return err
	}
	return o.open()
}

func (o *output) close() error {
	if o.name == "-" {
		return nil
	}
	return o.file.Close()
}
