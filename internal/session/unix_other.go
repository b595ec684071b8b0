//go:build !linux

package session

import "net"

func unpolled(nc net.Conn) (net.Conn, error) { return nc, nil }
