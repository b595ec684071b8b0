// Package jetstream is a pipeline.Sink that publishes changes to a stream of NATS JetStream, each of them once.
//
//	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
//	if err != nil {
//		return err
//	}
//	defer nc.Close()
//	sink, err := jetstream.Open(ctx, nc, "SHOP", jetstream.WithCreateStream(nil))
//	if err != nil {
//		return err
//	}
//	stream, err := walchan.Subscribe(ctx, dsn, walchan.WithSlot("shop"), walchan.WithCreateSlot(), walchan.WithPublication("shop"),
//		walchan.WithCheckpointFrom(sink.Checkpoint))
//	if err != nil {
//		return err
//	}
//	g := pipeline.New(ctx, stream, 30*time.Second)
//	batches := pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 1000, Wait: 10 * time.Millisecond})
//	pipeline.Into(g, batches, pipeline.Retry(sink, pipeline.RetryPolicy{}))
//	return g.Wait()
//
// The messages must come in the order of walchan's stream: no Keyed before. Leave out walchan.WithTransactions unless the encoder
// has a form for Begin and Commit: a Commit that nothing is published of is a message of SHOP.progress.
//
// # Subjects and payloads
//
// A change is published to the subject SHOP.<schema>.<table>, where SHOP is the name of the NATS stream, or what WithPrefix
// says. Of a name every character that cannot stand in a subject (". * > %", blanks and control characters) is written
// as in a URL, such as %2E. A TRUNCATE is one message for each of its tables. What is not of a table goes to
// SHOP.message (pg_logical_emit_message), SHOP.transaction (Begin and Commit, if the encoder has a form for them) and
// SHOP.snapshot: {"snapshot":"begin","attempt":1}, which makes void what an earlier attempt has brought, and
// {"snapshot":"end","attempt":1}. SHOP.progress has messages without a change, {"checkpoint":"…"}, where everything is left out
// before the sink, or the source is quiet.
//
// The payload is Debezium's envelope (encode.Debezium), or what WithEncoder writes. The header Walchan-Checkpoint has the
// walchan.Checkpoint up to which everything is in the NATS stream, "none" before there is one. Nats-Msg-Id is made of
// walchan.Message.ID.
//
// # Each change once
//
// The NATS stream itself says how far the sink has come: its last message has the checkpoint. Each message is published under
// the condition that it follows the one before (Nats-Expected-Last-Sequence). So whatever breaks, and however many messages
// were on their way, the stream has the changes in order, without a gap and without a repetition. The sink reads the last
// message in Checkpoint, and after each failure, and leaves out the changes that the stream has. The server drops repetitions
// within its window by Nats-Msg-Id, too.
//
// For that the stream must be the sink's own: nobody else may publish into it. It must keep messages until they are old or
// many (retention by limits); a work queue can be had as another stream that has this one as its source.
//
// Its last message must stay. If it was removed, by its age, by a purge, or by somebody, Checkpoint fails with
// walchan.ErrCheckpoint, because nothing else says how far the sink has come: see WithRemoved.
//
// Repetitions there are in these cases alone:
//
//   - The rows of a snapshot have no positions. If the process ends before the snapshot does, it begins anew, and a
//     batch of them that failed may be there twice.
//   - A transaction that PostgreSQL sends differently after a reconnect (walchan.Tx.Redelivered) is there again. These
//     messages have the header Walchan-Again.
//
// A server that has confirmed a message may still lose it if its machine loses power: it syncs to disk every two minutes unless
// its sync_interval says otherwise. The sink notices while it lives: ErrLost.
//
// The stream must not have walchan.WithTwoPhase.
package jetstream

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline"
)

// Encoder writes a message's payload, as those of package encode do. Of a Truncate it writes a line for each table.
type Encoder interface {
	Append(b []byte, m walchan.Message) ([]byte, error)
}

// Sink publishes messages to a stream of JetStream. It is a pipeline.Sink and a pipeline.Checkpointer.
type Sink struct {
	cfg    config
	stream string
	js     natsjs.JetStream
	leader nats.JetStreamManager // reads messages

	sequence uint64 // of the stream's last message that is known to be there
	last     mark   // of it
	sure     bool   // they are what the server has
	again    map[*walchan.Tx]uint32
}

// Option changes what Open does.
type Option func(*config)

type config struct {
	prefix  string
	window  int
	create  func(*natsjs.StreamConfig)
	encoder Encoder // nil: the default one, before the database is known
	removed bool
	log     *slog.Logger
}

// WithPrefix puts this before the names of schema and table in subjects, overriding the default of the stream's name. It may
// have several tokens ("cdc.shop").
func WithPrefix(prefix string) Option { return func(c *config) { c.prefix = prefix } }

// WithWindow publishes as many messages before the first one must be confirmed, overriding the default of 1000.
func WithWindow(messages int) Option { return func(c *config) { c.window = messages } }

// WithCreateStream creates the stream if it is missing: in files, without limits, unreplicated. edit (nil: nothing) may
// change that. A stream that exists is left as it is.
func WithCreateStream(edit func(*natsjs.StreamConfig)) Option {
	return func(c *config) {
		if c.create = edit; edit == nil {
			c.create = func(*natsjs.StreamConfig) {}
		}
	}
}

// WithEncoder writes payloads with e, overriding the default of encode.Debezium.
func WithEncoder(e Encoder) Option { return func(c *config) { c.encoder = e } }

// WithRemoved accepts that the stream's last message was removed, and the checkpoint with it: Checkpoint then returns the zero
// one. Subscribe needs walchan.WithFrom beside it, with the slot's confirmed position. Changes that the stream had after that are
// published again.
func WithRemoved() Option { return func(c *config) { c.removed = true } }

// WithLogger logs to l, overriding the default of slog.Default(). Row data is never logged.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.log = l } }

// Open looks for the stream of JetStream called name.
//
// nc must outlive the sink, and should be one that reconnects for ever: nats.MaxReconnects(-1). The errors are ErrStream
// and those of nats.go.
func Open(ctx context.Context, nc *nats.Conn, name string, opts ...Option) (*Sink, error) {
	s := &Sink{stream: name, again: map[*walchan.Tx]uint32{}, cfg: config{
		prefix: name,
		window: 1000,
		log:    slog.Default(),
	}}
	for _, o := range opts {
		o(&s.cfg)
	}
	s.cfg.window = max(s.cfg.window, 1)
	if err := s.connect(nc); err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	if s.cfg.create != nil {
		if err := s.createStream(ctx); err != nil {
			return nil, err
		}
	}
	if _, err := s.lookUp(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Checkpoint reads how far the stream is: the checkpoint of its last message. Give it to walchan.WithCheckpointFrom. The errors are
// ErrStream, ErrForeign, ErrLost, walchan.ErrCheckpoint and those of nats.go.
func (s *Sink) Checkpoint(ctx context.Context) (walchan.Checkpoint, error) {
	if err := s.locate(ctx); err != nil {
		return walchan.Checkpoint{}, err
	}
	return s.last.checkpoint, nil
}

func (s *Sink) connect(nc *nats.Conn) (err error) {
	// publish looks to the window itself: more are never pending.
	pending := natsjs.WithPublishAsyncMaxPending(s.cfg.window + 1)
	if s.js, err = natsjs.New(nc, pending); err == nil {
		s.leader, err = nc.JetStream()
	}
	return err
}

// Write is WriteCheckpoint with the checkpoint of the batch's last message.
func (s *Sink) Write(ctx context.Context, batch []walchan.Message) error {
	var last walchan.Checkpoint
	for i := len(batch) - 1; i >= 0 && last.IsZero(); i-- {
		last = batch[i].Checkpoint()
	}
	return s.WriteCheckpoint(ctx, batch, last)
}

// WriteCheckpoint publishes the batch and waits until the server has confirmed all of it. The last message has the checkpoint. A
// batch without changes is one message, with the checkpoint alone. A message that is too large for the server, or that cannot be
// encoded, is a *pipeline.RefusedError. After any other error the batch may be written again: what of it was stored is left out
// then.
func (s *Sink) WriteCheckpoint(ctx context.Context, batch []walchan.Message, c walchan.Checkpoint) error {
	if _, err := c.Value(); err != nil {
		return backoff.Permanent(err)
	}
	if !s.sure {
		if err := s.locate(ctx); err != nil {
			return err
		}
	}
	out, err := s.encode(batch, c)
	if err != nil || len(out) == 0 {
		return err
	}
	s.sure = false
	if err := s.publish(ctx, out); err != nil {
		return err
	}
	s.sure = true
	return nil
}

var (
	_ pipeline.Sink[walchan.Message]         = (*Sink)(nil)
	_ pipeline.Checkpointer[walchan.Message] = (*Sink)(nil)
)
