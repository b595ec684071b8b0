// Package kafka is a pipeline.Sink that writes the rows of tables to topics of Kafka, as bottledwater did: one topic a table, the
// primary key as the record's key, the row as its value.
//
//	client, err := kgo.NewClient(kgo.SeedBrokers("localhost:9092"), kgo.AllowAutoTopicCreation())
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	sink, err := kafka.Open(ctx, client)
//	if err != nil {
//		return err
//	}
//	g := pipeline.New(ctx, stream, 30*time.Second)
//	batches := pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 1000, Wait: 10 * time.Millisecond})
//	pipeline.Into(g, batches, pipeline.Retry(sink, pipeline.RetryPolicy{}))
//	return g.Wait()
//
// # Topics
//
// A table's topic is [prefix.][schema unless public.]table, in which each character other than letters, digits, ".", "_" and
// "-" is replaced by "_". Two tables of one topic are an error, ErrTopic. The client must be allowed to create topics
// (kgo.AllowAutoTopicCreation), or they must exist: until then Write is an error. Topics that are compacted
// (cleanup.policy=compact) keep the last state of each row.
//
// # Records
//
//	INSERT, UPDATE, row of a snapshot   key → row
//	UPDATE that changes the key         old key → null, key → row
//	DELETE                              old key → null
//
// The key has the columns of the replica identity, which is the primary key unless somebody has altered that. It decides on
// the partition, so that the changes of one row stay in order; those of different rows, and the two records of a changed
// key, may be read in another order. A table without a key is refused (ErrUnkeyed) unless WithUnkeyed allows it, and so is one
// with REPLICA IDENTITY FULL, which does not tell the key, unless WithKey does.
//
// Keys and values are JSON objects (walchan.Row.AppendJSON), or with WithAvro records of Avro whose schemas are in a registry,
// under <topic>-key and <topic>-value. A large value that an update left alone is missing (in Avro: null); the header
// walchan-unchanged then has the columns' names, separated by commas. The header walchan-id has walchan.Message.ID; rows of a
// snapshot have none.
//
// There is no record for a TRUNCATE: it is refused (ErrTruncate). Either the publication leaves it out (WITH (publish =
// 'insert, update, delete')), or pipeline.Skip does. Begin, Commit and logical messages are left out.
//
// # Repetitions
//
// What breaks while the process lives repeats nothing: the client must be idempotent, as it is by default, and what
// of a batch was stored is not written again with the rest. The exceptions are a client that has lost track of what the brokers
// have, and rows behind a refused one of the same key. A record that a broker refuses, or that the client gives up, may also be
// overtaken by a few of other keys, those that the client is given in this very moment.
//
// A process that follows one that was killed writes what that one had not confirmed to PostgreSQL, and what was stored of this
// is there twice: in each partition a piece of its end comes again, in the same order, so that the last record of a key is right
// nevertheless. The reader of a partition recognises a repetition by its walchan-id and key, which an earlier record has, too.
//
// Two things are beyond that. What the killed process had sent may still be on its way where a network stalls, and come behind
// what the next one has written: then the last record of a key may be an old one, for a reader that does not look at
// walchan-id. And records without a key may come again in another partition.
//
// The stream has no walchan.WithCheckpoint, because there is no place in Kafka for a checkpoint.
//
// Who needs each change once is better served by package postgres or jetstream.
//
// If a snapshot is interrupted it begins anew, and rows that were deleted in between stay in their topics.
//
// The stream must have neither walchan.WithTwoPhase nor walchan.WithPlugin, and with WithAvro not walchan.WithBinary.
package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// Why a message is refused, or a table.
var (
	// ErrUnkeyed: the table has no key that is known, or a row that is deleted has none.
	ErrUnkeyed = errors.New("no key is known")

	// ErrTruncate: a topic has no form for TRUNCATE.
	ErrTruncate = errors.New("a topic has no form for TRUNCATE")

	// ErrTopic: two tables have the same topic.
	ErrTopic = errors.New("another table has the same topic")
)

// Sink writes rows to topics. It is a pipeline.Sink.
type Sink struct {
	client *kgo.Client
	cfg    config
	tables map[*walchan.Relation]*table
	owners map[string]string // topic → table

	most   int               // records that the client can buffer
	last   *attempt          // may not have ended
	stored map[identity]bool // by attempts that have failed
}

// Option changes what Open does.
type Option func(*config)

type config struct {
	topic    func(*walchan.Relation) string
	key      func(*walchan.Relation) []string
	unkeyed  bool
	registry *sr.Client
}

// WithPrefix puts "prefix." before the names of topics.
func WithPrefix(prefix string) Option {
	return func(c *config) { c.topic = func(r *walchan.Relation) string { return topicName(prefix, r) } }
}

// WithTopic names the topics, overriding the default that the package's documentation has.
func WithTopic(f func(*walchan.Relation) string) Option { return func(c *config) { c.topic = f } }

// WithKey names the key columns of a table. Where f returns none they are those of the replica identity. It is for tables
// with REPLICA IDENTITY FULL: with any other, deletes know the columns of the replica identity alone.
func WithKey(f func(*walchan.Relation) []string) Option { return func(c *config) { c.key = f } }

// WithUnkeyed writes the rows of tables without a key, too, as records without one. Their deletes are refused.
func WithUnkeyed() Option { return func(c *config) { c.unkeyed = true } }

// WithAvro writes keys and values in Avro (encode.Avro), overriding the default of JSON, and registers their schemas.
func WithAvro(registry *sr.Client) Option { return func(c *config) { c.registry = registry } }

// Open tries the connection to the brokers, and to the registry if there is one. The client stays the caller's to close. It must
// be idempotent; a partitioner that does not go by the key (kgo.RecordPartitioner) loses the order of a row's changes.
func Open(ctx context.Context, client *kgo.Client, opts ...Option) (*Sink, error) {
	s := &Sink{client: client, tables: map[*walchan.Relation]*table{}, owners: map[string]string{}, stored: map[identity]bool{}, most: 10_000, cfg: config{
		topic: func(r *walchan.Relation) string { return topicName("", r) },
		key:   func(*walchan.Relation) []string { return nil },
	}}
	for _, o := range opts {
		o(&s.cfg)
	}
	if off, _ := client.OptValue(kgo.DisableIdempotentWrite).(bool); off {
		return nil, errors.New("the client of Kafka is not idempotent: leave out kgo.DisableIdempotentWrite")
	}
	if n, _ := client.OptValue(kgo.MaxBufferedRecords).(int64); n > 0 {
		s.most = int(n)
	}
	if err := client.Ping(ctx); err != nil {
		return nil, fmt.Errorf("connect to Kafka: %w", err)
	}
	if s.cfg.registry != nil {
		if err := s.cfg.registry.Compatibility(ctx)[0].Err; err != nil {
			return nil, fmt.Errorf("connect to the schema registry: %w", err)
		}
	}
	return s, nil
}

// Write writes the batch's rows, and waits until all replicas in sync have them. What cannot be encoded, or is too large, is
// a *pipeline.RefusedError. After any error the batch may be written again: what of it was stored is left out then.
func (s *Sink) Write(ctx context.Context, batch []walchan.Message) error {
	if s.last != nil {
		// A client that is idempotent does not give up what it has sent: what becomes of that must be known first.
		if err := s.last.wait(ctx); err != nil {
			return err
		}
		s.remember(s.last)
		s.last = nil
	}
	out, err := s.encode(ctx, batch)
	if err != nil {
		return err
	}
	// Without a producer ID the client would take records, and might fail some of them and not those that it is given just then.
	if _, _, err := s.client.ProducerID(ctx); err != nil {
		return fmt.Errorf("get a producer ID from Kafka: %w", err)
	}
	for len(out) > 0 {
		piece := out[:min(s.most, len(out))]
		out = out[len(piece):]
		if err := s.write(ctx, piece, len(out) > 0); err != nil {
			return err
		}
	}
	if len(s.stored) > 0 {
		for _, m := range batch {
			delete(s.stored, identify(m, 0))
			delete(s.stored, identify(m, 1)) // of a changed key
		}
	}
	return nil
}

// write writes no more than the client can buffer. It would block in the middle of more, and what fails meanwhile would be
// overtaken. more says that other pieces of the batch follow.
func (s *Sink) write(ctx context.Context, out []outgoing, more bool) error {
	a := produce(ctx, s.client, out)
	if err := a.wait(ctx); err != nil {
		s.last = a
		return err
	}
	err := a.failure()
	if err != nil || more {
		s.remember(a)
	}
	return err
}

var _ pipeline.Sink[walchan.Message] = (*Sink)(nil)
