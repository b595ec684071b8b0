package dial

import (
	"context"
	"errors"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// Reached is how a server was reached.
type Reached struct {
	Config  *pgconn.Config
	Address string
}

// IsPhysical says whether the connection is for physical replication, and has no SQL.
func (r *Reached) IsPhysical() bool { return r.Config.RuntimeParams["replication"] == "true" }

// DialOrdinary makes an ordinary connection to the server of this one.
func (r *Reached) DialOrdinary(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.ConnectConfig(ctx, r.OrdinaryConfig())
}

// OrdinaryConfig is for an ordinary connection to the server of this one.
func (r *Reached) OrdinaryConfig() *pgconn.Config {
	cfg := r.Config.Copy()
	cfg.AfterConnect = nil
	r.SameServer(cfg)
	return cfg
}

// SameServer has cfg connect to the server of this connection: of several hosts only to the one that was reached.
func (r *Reached) SameServer(cfg *pgconn.Config) {
	cfg.ValidateConnect = nil
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != r.Address {
			return nil, errors.New("not the server of the first connection")
		}
		return dial(ctx, network, address)
	}
}

// DialBeside makes a second connection to the server of this one: a walsender, which can read WAL, or else an ordinary one.
// plain asks for an ordinary one.
func (r *Reached) DialBeside(ctx context.Context, plain bool) (*pgconn.PgConn, error) {
	cfg := r.OrdinaryConfig()
	if !plain {
		walsender := cfg.Copy()
		walsender.RuntimeParams["replication"] = "database"
		// Not the stream's name, or it may be taken for a synchronous standby.
		walsender.RuntimeParams["application_name"] = "walchan proof"
		conn, err := pgconn.ConnectConfig(ctx, walsender)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, Error(err, walsender)
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, Error(err, cfg)
	}
	return conn, nil
}
