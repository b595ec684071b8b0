package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/twmb/avro"
	"github.com/twmb/avro/ocf"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
)

// container writes an Avro object container file. Its records are of one schema, whatever the tables: change. Rows and keys are
// bytes within, in Avro's single-object encoding, each by the schema that a record with the command TABLE has given
// before the first row of its table, and again when that is altered.
type container struct {
	database string
	writer   *ocf.Writer
	out      sink
	tables   map[uint32]*tableSchemas // by OID
}

// change is a record. Its fields are called as in bottledwater's JSON.
type change struct {
	Command     string   `avro:"command"` // BEGIN, COMMIT, TABLE, INSERT, UPDATE, DELETE, TRUNCATE
	XID         int64    `avro:"xid"`     // 0: a row of the snapshot
	WALPos      *int64   `avro:"wal_pos"`
	Database    string   `avro:"dbname"`
	Name        *string  `avro:"relname"`
	Schema      *string  `avro:"relnamespace"`
	Key         []byte   `avro:"key"`    // of the new row, of the old one for a DELETE
	OldKey      []byte   `avro:"oldkey"` // of an UPDATE that has changed it
	NewTuple    []byte   `avro:"newtuple"`
	OldTuple    []byte   `avro:"oldtuple"`    // where the server sends the whole old row
	Unchanged   []string `avro:"unchanged"`   // fields of newtuple that are null because they were not sent: large values, left alone
	TupleSchema *string  `avro:"tupleschema"` // of a TABLE
	KeySchema   *string  `avro:"keyschema"`   // of a TABLE with a key
}

var changeSchema = avro.MustParse(`{"type": "record", "name": "Change", "namespace": "bottledwater", "fields": [
	{"name": "command", "type": "string"},
	{"name": "xid", "type": "long"},
	{"name": "wal_pos", "type": ["null", "long"]},
	{"name": "dbname", "type": "string"},
	{"name": "relname", "type": ["null", "string"]},
	{"name": "relnamespace", "type": ["null", "string"]},
	{"name": "key", "type": ["null", "bytes"]},
	{"name": "oldkey", "type": ["null", "bytes"]},
	{"name": "newtuple", "type": ["null", "bytes"]},
	{"name": "oldtuple", "type": ["null", "bytes"]},
	{"name": "unchanged", "type": {"type": "array", "items": "string"}},
	{"name": "tupleschema", "type": ["null", "string"]},
	{"name": "keyschema", "type": ["null", "string"]}
]}`)

// sink takes what the writer writes, and lets it read the header of a file that has one.
type sink struct {
	*os.File
	b []byte
}

func (s *sink) Write(b []byte) (int, error) {
	s.b = append(s.b, b...)
	return len(b), nil
}

func newContainer(database string, out *output) (*container, error) {
	c := &container{database: database, tables: map[uint32]*tableSchemas{}}
	c.out.File = out.file
	if out.path == "" || out.partial {
		return c, c.begin()
	}
	size, err := out.file.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return c, errors.Join(err, c.begin())
	}
	if _, err := out.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	c.writer, err = ocf.NewAppendWriter(&c.out)
	return c, err
}

func (c *container) begin() (err error) {
	c.out.b = nil
	c.writer, err = ocf.NewWriter(&c.out, changeSchema)
	return err
}

func (c *container) Restart() error {
	clear(c.tables)
	return c.begin()
}

func (c *container) Append(b []byte, m walchan.Message) ([]byte, error) {
	err := c.encode(m)
	return c.take(b), err
}

func (c *container) Flush(b []byte) ([]byte, error) {
	err := c.writer.Flush()
	return c.take(b), err
}

// take appends what the writer has written: its blocks as they become full.
func (c *container) take(b []byte) []byte {
	b = append(b, c.out.b...)
	c.out.b = c.out.b[:0]
	return b
}

// tableSchemas are those of a table, with the fingerprints that single objects begin with.
type tableSchemas struct {
	*encode.Avro
	relation *walchan.Relation
	row, key []byte // key is nil if there is none
}

// table returns the schemas of a table. When they are new a record tells of them; the server describes tables again now and
// then, also without a difference.
func (c *container) table(rel *walchan.Relation) (*tableSchemas, error) {
	old := c.tables[rel.OID]
	if old != nil && old.relation == rel {
		return old, nil
	}
	t := &tableSchemas{Avro: encode.NewAvro(rel), relation: rel}
	if old != nil && old.Schema == t.Schema && old.KeySchema == t.KeySchema && old.relation.String() == rel.String() {
		old.relation = rel
		return old, nil
	}
	r := change{Command: "TABLE", Database: c.database, Name: &rel.Name, Schema: &rel.Schema, TupleSchema: &t.Schema}
	var err error
	if t.row, err = singleObject(t.Schema); err != nil {
		return nil, err
	}
	if t.KeySchema != "" {
		r.KeySchema = &t.KeySchema
		if t.key, err = singleObject(t.KeySchema); err != nil {
			return nil, err
		}
	}
	if err := c.writer.Encode(&r); err != nil {
		return nil, err
	}
	c.tables[rel.OID] = t
	return t, nil
}

// singleObject returns what a single object of the schema begins with (Avro specification, "Single-object encoding").
func singleObject(schema string) ([]byte, error) {
	s, err := avro.Parse(schema)
	if err != nil {
		return nil, err
	}
	h := avro.NewRabin()
	h.Write(s.Canonical())
	return binary.LittleEndian.AppendUint64([]byte{0xC3, 0x01}, h.Sum64()), nil
}

func (c *container) encode(m walchan.Message) error {
	r := change{Database: c.database}
	if m.Tx != nil {
		r.XID = int64(m.Tx.XID)
	}
	switch m.Kind {
	case walchan.SnapshotBegin, walchan.SnapshotEnd:
		return nil
	case walchan.Begin:
		r.Command = "BEGIN"
		return c.writer.Encode(&r)
	case walchan.Commit:
		r.Command = "COMMIT"
		return c.writer.Encode(&r)
	case walchan.Insert, walchan.Read:
		r.Command = "INSERT"
	case walchan.Update:
		r.Command = "UPDATE"
	case walchan.Delete:
		r.Command = "DELETE"
	case walchan.Truncate:
		r.Command = "TRUNCATE"
	default:
		return encode.ErrKind
	}
	if m.Tx != nil {
		pos := int64(m.LSN)
		r.WALPos = &pos
	}
	if m.Kind != walchan.Truncate {
		return c.encodeRow(&r, m)
	}
	tables, _, _ := m.Truncated()
	for _, rel := range tables {
		r.Name, r.Schema = &rel.Name, &rel.Schema
		if err := c.writer.Encode(&r); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) encodeRow(r *change, m walchan.Message) error {
	r.Name, r.Schema = &m.Relation.Name, &m.Relation.Schema
	t, err := c.table(m.Relation)
	if err != nil {
		return err
	}
	row := m.New()
	if m.Kind == walchan.Delete {
		row = m.Old()
	}
	if r.Key, err = t.appendKey(row); err != nil {
		return err
	}
	if m.Kind != walchan.Delete {
		r.Unchanged = t.Unchanged(row)
		if r.NewTuple, err = t.AppendRow(t.row[:len(t.row):len(t.row)], row); err != nil {
			return err
		}
	}
	switch m.Old().Identity() {
	case walchan.KeyIdentity:
		if m.Kind == walchan.Update {
			r.OldKey, err = t.appendKey(m.Old())
		}
	case walchan.FullIdentity:
		r.OldTuple, err = t.AppendRow(t.row[:len(t.row):len(t.row)], m.Old())
	}
	if err != nil {
		return err
	}
	return c.writer.Encode(r)
}

// appendKey returns the key of a row, nil if there is none.
func (t *tableSchemas) appendKey(row walchan.Row) ([]byte, error) {
	if t.key == nil {
		return nil, nil
	}
	return t.AppendKey(t.key[:len(t.key):len(t.key)], row)
}

// containerHeader returns where the header of a container file ends, and the marker that ends each block. Of a file that has no
// whole header the marker is nil.
func containerHeader(f *os.File) (end int64, marker []byte, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, nil, err
	}
	r := &counter{r: bufio.NewReader(f)}
	magic := make([]byte, 4)
	if _, err := io.ReadFull(r, magic); err != nil {
		return 0, nil, torn(err)
	}
	if string(magic) != "Obj\x01" {
		return 0, nil, errors.New("it is no Avro file: choose another, or the -format that it has")
	}
	if err := r.skipMetadata(); err != nil {
		return 0, nil, torn(err)
	}
	marker = make([]byte, 16)
	if _, err := io.ReadFull(r, marker); err != nil {
		return 0, nil, torn(err)
	}
	return r.n, marker, nil
}

// torn lets the end of the file pass.
func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// counter counts what is read.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// skipMetadata skips a map of bytes (Avro specification, "Maps").
func (c *counter) skipMetadata() error {
	for {
		n, err := binary.ReadVarint(c)
		if n == 0 || err != nil {
			return err
		}
		if n < 0 { // then the size follows
			n = -n
			if _, err := binary.ReadVarint(c); err != nil {
				return err
			}
		}
		for range 2 * n { // keys and values
			length, err := binary.ReadVarint(c)
			if err != nil {
				return err
			}
			if _, err := io.CopyN(io.Discard, c, length); err != nil {
				return err
			}
		}
	}
}
