package fakewal

import (
	"errors"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// negotiate reads the startup packet; encryption is declined, and a cancel request ignored.
func (c *Conn) negotiate() error {
	for {
		msg, err := c.backend.ReceiveStartupMessage()
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if err := c.Raw([]byte("N")); err != nil {
				return err
			}
		case *pgproto3.StartupMessage:
			c.Params = m.Parameters
			return nil
		default:
			return io.EOF
		}
	}
}

// welcome lets the client in, with the parameters that PostgreSQL 15 reports.
func (c *Conn) welcome() error {
	var st State
	c.srv.Update(func(s *State) { st = *s })
	if st.Startup != nil {
		if err := st.Startup(c); err != nil {
			if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
				return Fatal(e.Code, e.Message)
			}
			return err
		}
	}
	msgs := []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}
	for _, p := range [][2]string{
		{"application_name", c.Params["application_name"]},
		{"client_encoding", "UTF8"},
		{"DateStyle", "ISO, MDY"},
		{"default_transaction_read_only", "off"},
		{"in_hot_standby", onOff(st.Standby, "on", "off")},
		{"integer_datetimes", "on"},
		{"IntervalStyle", "postgres"},
		{"is_superuser", "on"},
		{"server_encoding", "UTF8"},
		{"server_version", st.Version},
		{"session_authorization", c.Params["user"]},
		{"standard_conforming_strings", "on"},
		{"TimeZone", "Etc/UTC"},
	} {
		msgs = append(msgs, &pgproto3.ParameterStatus{Name: p[0], Value: p[1]})
	}
	msgs = append(msgs, &pgproto3.BackendKeyData{ProcessID: c.PID, SecretKey: []byte{0, 0, 0, 1}}, ready)
	return c.Send(msgs...)
}
