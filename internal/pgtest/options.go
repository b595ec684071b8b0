package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An Option configures a cluster. Options cannot fail; a setting the server refuses shows when it starts.
type Option func(*options)

type options struct {
	settings []string // lines of postgresql.conf, the last of equals wins
	hba      []string // lines of pg_hba.conf, the first match wins
	dir      string
	tls      bool
	password string
}

func (o options) with(opts []Option) options {
	o.settings, o.hba = slices.Clone(o.settings), slices.Clone(o.hba)
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// WithSetting sets a parameter of postgresql.conf, overriding the cluster's default, such as fsync=off.
func WithSetting(name, value string) Option {
	return func(o *options) { o.settings = append(o.settings, setting(name, value)) }
}

// WithDir makes the cluster's directory in dir. The default is TMPDIR, or if that is not set /dev/shm if it has 4 GiB of
// room, or else /tmp: name a directory on a disk to measure what waits for the disk (which also needs fsync=on) or for what
// does not fit into memory. The server's user, not root, must be able to get there.
func WithDir(dir string) Option { return func(o *options) { o.dir = dir } }

// WithTLS makes the server take TCP connections with TLS only. Its certificate, for 127.0.0.1 and localhost, comes from a CA
// made for the occasion: see [Cluster.CAFile].
func WithTLS() Option { return func(o *options) { o.tls = true } }

// WithSCRAM gives the superuser a password, which TCP connections must prove by scram-sha-256. The Unix socket stays open.
func WithSCRAM(password string) Option { return func(o *options) { o.password = password } }

// WithHBA puts lines before the cluster's own in pg_hba.conf, where the first line that matches decides.
func WithHBA(lines ...string) Option {
	return func(o *options) { o.hba = append(o.hba, lines...) }
}

// defaults are the settings of every cluster.
var defaults = []string{
	setting("listen_addresses", "127.0.0.1"),
	setting("wal_level", "logical"),
	setting("max_wal_senders", "40"),
	setting("max_replication_slots", "40"),
	setting("max_prepared_transactions", "20"),
	setting("fsync", "off"),
	setting("log_replication_commands", "on"),
	setting("log_line_prefix", "%m [%p] %a "),
	setting("lc_messages", "C"), // startOnFreePort reads them
	setting("timezone", "UTC"),
	setting("log_timezone", "UTC"),
	// Shared memory as files of the data directory: a killed server leaves nothing in /dev/shm.
	setting("dynamic_shared_memory_type", "mmap"),
}

func setting(name, value string) string {
	return name + " = '" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}

// configure writes the configuration files. They replace those of initdb, and those a standby has from its primary.
func (c *Cluster) configure() error {
	conf := append(slices.Clone(defaults), setting("port", fmt.Sprint(c.port)), setting("unix_socket_directories", c.dir))
	host, method := "host", "trust"
	if c.options.tls {
		host = "hostssl"
		conf = append(conf, setting("ssl", "on")) // with server.crt and server.key in the data directory
	}
	if c.options.password != "" {
		method = "scram-sha-256"
		conf = append(conf, setting("password_encryption", method))
	}
	conf = append(conf, c.options.settings...)
	hba := append(slices.Clone(c.options.hba),
		"local all,replication all trust",
		host+" all,replication all 127.0.0.1/32 "+method)
	if err := c.writeData("postgresql.conf", conf...); err != nil {
		return err
	}
	return c.writeData("pg_hba.conf", hba...)
}

// writeData writes a file of the data directory that the server alone may read.
func (c *Cluster) writeData(name string, lines ...string) error {
	path := filepath.Join(c.DataDir(), name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return giveToServer(path)
}
