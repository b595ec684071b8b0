package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
)

// table is how the rows of one relation are written.
type table struct {
	topic string
	names []string // of the columns
	key   []bool   // columns of the key
	keyed bool

	avro           *encode.Avro // nil: JSON
	keyID, valueID int          // of the schemas
}

// table returns what is known of a relation.
func (s *Sink) table(ctx context.Context, rel *walchan.Relation) (*table, error) {
	if t, ok := s.tables[rel]; ok {
		return t, nil
	}
	t := &table{topic: s.cfg.topic(rel), names: make([]string, len(rel.Columns)), key: make([]bool, len(rel.Columns))}
	if err := s.chooseKey(t, rel); err != nil {
		return nil, err
	}
	if owner, ok := s.owners[t.topic]; ok && owner != rel.String() {
		return nil, fmt.Errorf("%w: %s and %s both have %q; name them with WithTopic", ErrTopic, owner, rel, t.topic)
	}
	s.owners[t.topic] = rel.String()
	if s.cfg.registry != nil {
		if err := s.register(ctx, t, rel); err != nil {
			return nil, err
		}
	}
	if len(s.tables) > 1000 {
		clear(s.tables) // relations come anew with every connection of the stream
	}
	s.tables[rel] = t
	return t, nil
}

func (s *Sink) chooseKey(t *table, rel *walchan.Relation) error {
	names := s.cfg.key(rel)
	for i, c := range rel.Columns {
		t.names[i] = c.Name
		t.key[i] = len(names) == 0 && c.Key && rel.ReplicaIdentity != walchan.ReplicaIdentityFull
	}
	for _, name := range names {
		i := rel.Index(name)
		if i < 0 {
			return refusal{fmt.Errorf("%w: %s has no column %q, which WithKey names", ErrUnkeyed, rel, name)}
		}
		t.key[i] = true
	}
	t.keyed = slices.Contains(t.key, true)
	switch {
	case t.keyed || s.cfg.unkeyed:
		return nil
	case rel.ReplicaIdentity == walchan.ReplicaIdentityFull:
		return refusal{fmt.Errorf("%w: %s has REPLICA IDENTITY FULL; name the columns with WithKey", ErrUnkeyed, rel)}
	}
	return refusal{fmt.Errorf("%w: give %s a primary key, leave it out of the publication, or allow it with WithUnkeyed", ErrUnkeyed, rel)}
}

// register makes the schemas, and sees that the registry has them.
func (s *Sink) register(ctx context.Context, t *table, rel *walchan.Relation) (err error) {
	marked := *rel
	marked.Columns = slices.Clone(rel.Columns)
	for i := range marked.Columns {
		marked.Columns[i].Key = t.key[i]
	}
	t.avro = encode.NewAvro(&marked)
	if t.valueID, err = s.registerOne(ctx, t.topic+"-value", t.avro.Schema); err != nil || !t.keyed {
		return err
	}
	t.keyID, err = s.registerOne(ctx, t.topic+"-key", t.avro.KeySchema)
	return err
}

func (s *Sink) registerOne(ctx context.Context, subject, schema string) (int, error) {
	id, err := s.cfg.registry.RegisterSchema(ctx, subject, sr.Schema{Schema: schema, Type: sr.TypeAvro}, -1, -1)
	if err != nil {
		return 0, fmt.Errorf("register the schema %s: %w", subject, err)
	}
	return id, nil
}

// topicName is the name that bottledwater gave a table's topic.
func topicName(prefix string, rel *walchan.Relation) string {
	name := rel.Name
	if rel.Schema != "public" {
		name = rel.Schema + "." + name
	}
	if prefix != "" {
		name = prefix + "." + name
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, name)
}
