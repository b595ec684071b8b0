package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cenkalti/backoff/v4"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/pgjson"
	"github.com/walchan/walchan/pipeline"
)

// Headers of records.
const (
	headerID        = "walchan-id" // walchan.Message.ID
	headerUnchanged = "walchan-unchanged"
)

// encode returns the records of a batch, apart from those that were stored.
func (s *Sink) encode(ctx context.Context, batch []walchan.Message) ([]outgoing, error) {
	out := make([]outgoing, 0, len(batch))
	for i, m := range batch {
		records, err := s.records(ctx, m)
		var r refusal
		if errors.As(err, &r) {
			err = &pipeline.RefusedError{Item: i, Err: r.error}
		}
		if err != nil {
			return nil, err
		}
		for n, record := range records {
			if of := identify(m, n); !s.stored[of] {
				out = append(out, outgoing{i, of, record})
			}
		}
	}
	return out, nil
}

// refusal is an error of a message that will not pass.
type refusal struct{ error }

// records returns the records of one message.
func (s *Sink) records(ctx context.Context, m walchan.Message) ([]*kgo.Record, error) {
	switch {
	case m.Tx != nil && m.Tx.GID != "":
		return nil, backoff.Permanent(errors.New("the transaction is prepared, not committed: leave out walchan.WithTwoPhase"))
	case m.Kind == walchan.Raw:
		return nil, backoff.Permanent(errors.New("messages of other output plugins have no rows: leave out walchan.WithPlugin"))
	case m.Kind == walchan.Truncate:
		return nil, refusal{fmt.Errorf("%w: leave it out of the publication (publish), or skip it (pipeline.Skip)", ErrTruncate)}
	case m.Relation == nil || m.New().Len()+m.Old().Len() == 0:
		return nil, nil
	}
	t, err := s.table(ctx, m.Relation)
	if err != nil {
		return nil, err
	}
	records, err := t.records(m)
	if err != nil {
		return nil, refusal{fmt.Errorf("encode %s: %w", m.Relation, err)}
	}
	if id := m.ID(); id != "" {
		header := kgo.RecordHeader{Key: headerID, Value: []byte(id)}
		for _, r := range records {
			r.Headers = append(r.Headers, header)
		}
	}
	return records, nil
}

func (t *table) records(m walchan.Message) ([]*kgo.Record, error) {
	row, old := m.New(), m.Old()
	if m.Kind == walchan.Delete {
		if !t.keyed {
			return nil, fmt.Errorf("%w: there is no record for a delete", ErrUnkeyed)
		}
		return t.tombstone(old)
	}
	value, err := t.appendValue(nil, row)
	if err != nil {
		return nil, err
	}
	record := &kgo.Record{Topic: t.topic, Value: value}
	if names := unchanged(row); names != "" {
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: headerUnchanged, Value: []byte(names)})
	}
	if !t.keyed {
		return []*kgo.Record{record}, nil
	}
	changed, from := t.compare(old, row)
	if record.Key, err = t.appendKey(nil, from); err != nil || !changed {
		return []*kgo.Record{record}, err
	}
	records, err := t.tombstone(old)
	return append(records, record), err
}

// compare says whether an update has changed the key, and which row has the new one: the old row, if the update has left a
// large value of the key alone.
func (t *table) compare(old, row walchan.Row) (changed bool, from walchan.Row) {
	from = row
	if old.Len() == 0 {
		return false, from
	}
	for i, key := range t.key {
		switch {
		case !key:
		case row.State(i) == walchan.Unchanged:
			from = old
		case old.State(i) != row.State(i) || old.Text(i) != row.Text(i):
			changed = true
		}
	}
	if changed {
		from = row
	}
	return changed, from
}

func (t *table) tombstone(old walchan.Row) ([]*kgo.Record, error) {
	key, err := t.appendKey(nil, old)
	return []*kgo.Record{{Topic: t.topic, Key: key}}, err
}

// appendKey appends the key of a row.
func (t *table) appendKey(b []byte, row walchan.Row) (_ []byte, err error) {
	for i, key := range t.key {
		if s := row.State(i); key && (s == walchan.Unchanged || s == walchan.NotSent) {
			return nil, fmt.Errorf("%w: column %s of the key is %v", ErrUnkeyed, t.names[i], s)
		}
	}
	if t.avro != nil {
		return t.avro.AppendKey(confluent(b, t.keyID), row)
	}
	b = append(b, '{')
	for i, key := range t.key {
		if !key {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(pgjson.AppendString(b, t.names[i]), ':')
		if b, err = row.AppendJSONAt(b, i); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func (t *table) appendValue(b []byte, row walchan.Row) ([]byte, error) {
	if t.avro != nil {
		return t.avro.AppendRow(confluent(b, t.valueID), row)
	}
	return row.AppendJSON(b)
}

// confluent appends the header of what has its schema in a registry ("Wire format" in Confluent's documentation).
func confluent(b []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0), uint32(id))
}

// unchanged lists the columns that an update has left alone.
func unchanged(row walchan.Row) string {
	var names []string
	for i := range row.Len() {
		if row.State(i) == walchan.Unchanged {
			names = append(names, row.Relation().Columns[i].Name)
		}
	}
	return strings.Join(names, ",")
}
