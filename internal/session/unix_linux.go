package session

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// unixConn is a connection over a Unix socket that wakes nobody unless Read waits.
//
// Go's poller is woken by each message that PostgreSQL sends, whether anybody reads or not: a thread of this process, at the
// cost of the walsender as well. So the socket is in an epoll instance of our own, and only while Read waits; that instance is
// in Go's poller, from which deadlines and Close come.
type unixConn struct {
	epoll   *os.File
	raw     syscall.RawConn // of epoll; its callbacks keep Close waiting
	socket  int
	armed   bool // Read's own
	once    sync.Once
	writeBy atomic.Int64 // deadline in Unix nanoseconds; 0: none

	local, remote net.Addr
}

// unpolled takes a connection over a Unix socket from Go's poller. Others it returns as they are.
func unpolled(nc net.Conn) (net.Conn, error) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return nc, nil
	}
	defer u.Close() // leaves the poller; the copy stays open
	socket, err := duplicate(u)
	if err != nil {
		return nil, err
	}
	epoll, err := newEpoll()
	if err != nil {
		syscall.Close(socket)
		return nil, err
	}
	raw, err := epoll.SyscallConn()
	if err != nil {
		epoll.Close()
		syscall.Close(socket)
		return nil, err
	}
	return &unixConn{epoll: epoll, raw: raw, socket: socket, local: u.LocalAddr(), remote: u.RemoteAddr()}, nil
}

func duplicate(u *net.UnixConn) (fd int, err error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(old uintptr) {
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		if fd = int(n); errno != 0 {
			err = os.NewSyscallError("fcntl", errno)
		}
	})
	if control != nil {
		return 0, control
	}
	return fd, err
}

func newEpoll() (*os.File, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // or os.NewFile does not give it to Go's poller
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "epoll"), nil
}

func (c *unixConn) Read(p []byte) (n int, err error) {
	waited := c.raw.Read(func(epoll uintptr) bool {
		c.disarm(int(epoll))
		if n, err = retry(func() (int, error) { return syscall.Read(c.socket, p) }); err == syscall.EAGAIN {
			err = c.arm(int(epoll))
			return err != nil
		}
		return true
	})
	switch {
	case errors.Is(waited, os.ErrDeadlineExceeded):
		return 0, c.failed("read", waited)
	case waited != nil:
		return 0, c.failed("read", net.ErrClosed)
	case err != nil:
		return 0, c.failed("read", os.NewSyscallError("read", err))
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// arm has the poller told of what comes next, or is there by now.
func (c *unixConn) arm(epoll int) error {
	c.armed = true
	return syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, c.socket, &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP})
}

func (c *unixConn) disarm(epoll int) {
	if c.armed {
		syscall.EpollCtl(epoll, syscall.EPOLL_CTL_DEL, c.socket, nil)
	}
	c.armed = false
}

// Write waits by looking again and again: what we write is short, and finds no room only where the server reads nothing.
func (c *unixConn) Write(p []byte) (written int, err error) {
	for written < len(p) {
		var n int
		closed := c.raw.Control(func(uintptr) {
			n, err = retry(func() (int, error) { return syscall.Write(c.socket, p[written:]) })
		})
		switch by := c.writeBy.Load(); {
		case closed != nil:
			return written, c.failed("write", net.ErrClosed)
		case err == nil:
			written += n
		case err != syscall.EAGAIN:
			return written, c.failed("write", os.NewSyscallError("write", err))
		case by != 0 && time.Now().UnixNano() >= by:
			return written, c.failed("write", os.ErrDeadlineExceeded)
		default:
			time.Sleep(time.Millisecond)
		}
	}
	return written, nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); err != syscall.EINTR {
			return n, err
		}
	}
}

func (c *unixConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "unix", Source: c.local, Addr: c.remote, Err: err}
}

func (c *unixConn) Close() error {
	err := c.epoll.Close() // returns when no callback uses the socket any more
	c.once.Do(func() { syscall.Close(c.socket) })
	return err
}

func (c *unixConn) LocalAddr() net.Addr  { return c.local }
func (c *unixConn) RemoteAddr() net.Addr { return c.remote }

func (c *unixConn) SetDeadline(t time.Time) error {
	c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

func (c *unixConn) SetReadDeadline(t time.Time) error { return c.epoll.SetReadDeadline(t) }

func (c *unixConn) SetWriteDeadline(t time.Time) error {
	by := int64(0)
	if !t.IsZero() {
		by = max(t.UnixNano(), 1)
	}
	c.writeBy.Store(by)
	return nil
}
