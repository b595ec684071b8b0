//go:build !unix

package main

import "os"

// lock: only one exporter can have the slot anyway.
func lock(*os.File) error { return nil }

// syncIfPossible: Windows has no such thing for directories.
func syncIfPossible(*os.File) error { return nil }
