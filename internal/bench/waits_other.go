//go:build !unix

package main

import "os"

func waits(*os.ProcessState) int64 { return 0 } // not known
