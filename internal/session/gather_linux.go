package session

import (
	"net"
	"syscall"
)

// setLowWater sets how many bytes must have come for a read that waits to be woken (socket(7), SO_RCVLOWAT; epoll knows it
// for TCP). A read that need not wait still returns what there is.
func setLowWater(nc net.Conn, bytes int) {
	for {
		above, ok := nc.(interface{ NetConn() net.Conn }) // TLS
		if !ok {
			break
		}
		nc = above.NetConn()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
			})
		}
	}
}

// nap is a short sleep. That of package time can last more than a millisecond in a process that has nothing else to do.
func nap() {
	syscall.Nanosleep(&syscall.Timespec{Nsec: 200_000}, nil)
}
