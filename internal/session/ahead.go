package session

import "net"

// ahead reads the bytes below TLS, as many at once as there are: crypto/tls asks for little more than a record, and the server
// sends each message as a record of its own.
type ahead struct {
	net.Conn
	buf  []byte
	r, w int // buf[r:w] is unread
}

func readAhead(nc net.Conn) *ahead { return &ahead{Conn: nc, buf: make([]byte, heap)} }

// NetConn returns the connection below, as that of tls.Conn does.
func (a *ahead) NetConn() net.Conn { return a.Conn }

func (a *ahead) Read(p []byte) (int, error) {
	if a.r == a.w {
		if len(p) >= len(a.buf) {
			return a.Conn.Read(p)
		}
		n, err := a.Conn.Read(a.buf)
		if n == 0 {
			return 0, err
		}
		a.r, a.w = 0, n // an error comes again
	}
	n := copy(p, a.buf[a.r:a.w])
	a.r += n
	return n, nil
}

// holdsRecord says whether a whole TLS record is in the buffer: it can be read without waiting. Its header is a byte for the
// type, two for the version and two for the length (RFC 8446, section 5.1).
func (a *ahead) holdsRecord() bool {
	b := a.buf[a.r:a.w]
	return len(b) >= 5 && len(b) >= 5+int(b[3])<<8+int(b[4])
}
