package kafka_test

import (
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/kafka"
	"github.com/walchan/walchan/walchantest"
)

// refuseProduce has a broker refuse what it is given the nth time, once the client has had the time to take all it can buffer.
func refuseProduce(c *cluster, nth int) {
	n := 0
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if n++; n < nth {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			to := kmsg.NewProduceResponseTopic()
			to.Topic, to.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = partition.Partition, kerr.TopicAuthorizationFailed.Code
				to.Partitions = append(to.Partitions, p)
			}
			resp.Topics = append(resp.Topics, to)
		}
		time.Sleep(100 * time.Millisecond)
		return resp, nil, true
	})
}

// Records that fail are not overtaken by those of the batch that the client takes later: who reads would take the former for
// repetitions when they come.
func TestNothingOvertakesWhatHasFailed(t *testing.T) {
	const rows = 1000
	c := startCluster(t)
	refuseProduce(c, 1)
	var entries []walchantest.Entry
	for i := range rows {
		entries = append(entries, items.Insert(i, "x"))
	}
	last, n := map[int32]string{}, 0
	for _, r := range writeAgain(t, c, 50, entries) {
		p := header(r, "walchan-id")
		if p <= last[r.Partition] {
			t.Fatalf("partition %d: %s comes behind %s", r.Partition, p, last[r.Partition])
		}
		last[r.Partition] = p
		n++
	}
	if n != rows {
		t.Errorf("%d records of %d rows", n, rows)
	}
}

// Of the two records of a changed key one is stored, the other fails: it alone is written again.
func TestHalfOfAChangedKey(t *testing.T) {
	c := startCluster(t)
	refuseProduce(c, 2)
	same(t, byKey(writeAgain(t, c, 1, []walchantest.Entry{items.Update(2, "x").From(1, nil)})), map[string]string{`{"id":1}`: "", `{"id":2}`: `{"id":2,"v":"x"}`})
}

// writeAgain writes with a client that buffers so many records, until what was refused is stored, and returns what is.
func writeAgain(t *testing.T, c *cluster, buffered int, entries []walchantest.Entry, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	sink, err := kafka.Open(t.Context(), client(t, c.ListenAddrs(), append(opts, kgo.MaxBufferedRecords(buffered))...))
	if err != nil {
		t.Fatal(err)
	}
	counted := pipeline.Count(sink)
	if err := pipeline.Retry(counted, soon).Write(t.Context(), walchantest.Messages(entries...)); err != nil {
		t.Fatal(err)
	}
	if counted.Stats().Errors != 1 {
		t.Errorf("%d errors", counted.Stats().Errors)
	}
	return records(t, c.ListenAddrs(), "items")
}

// A client that cannot get its producer ID is given nothing: it would fail what it has, and store what it is given just then.
func TestNothingIsWrittenWithoutAProducerID(t *testing.T) {
	c := startCluster(t)
	m := &moment{failed: make(chan struct{}), granted: make(chan struct{}), stored: make(chan struct{})}
	c.ControlKey(int16(kmsg.InitProducerID), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.ControlKey(int16(kmsg.InitProducerID), sees(m.granted))
		resp := r.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.RequestTimedOut.Code
		return resp, nil, true
	})
	c.ControlKey(int16(kmsg.Produce), sees(m.stored))
	var entries []walchantest.Entry
	for i := range 200 {
		entries = append(entries, items.Insert(i, "x"))
	}
	last := map[int32]string{}
	for _, r := range writeAgain(t, c, 50, entries, kgo.WithHooks(m), kgo.RecordRetries(0)) {
		p := header(r, "walchan-id")
		if p <= last[r.Partition] {
			t.Fatalf("partition %d: %s comes behind %s", r.Partition, p, last[r.Partition])
		}
		last[r.Partition] = p
	}
}

// sees closes a channel at the first request, which it leaves to the broker.
func sees(c chan struct{}) func(kmsg.Request) (kmsg.Response, error, bool) {
	once := sync.OnceFunc(func() { close(c) })
	return func(kmsg.Request) (kmsg.Response, error, bool) {
		once()
		return nil, nil, false
	}
}

// moment is when a client without a producer ID does harm: it fails the records that it has while it is given another one, and that one is
// stored before the failure is told.
type moment struct {
	taken   int // records
	once    sync.Once
	failed  chan struct{} // closed when the first record fails
	granted chan struct{} // closed when the broker gives a producer ID
	stored  chan struct{} // closed when the broker is given records
}

// OnProduceRecordBuffered is called before the client takes a record.
func (m *moment) OnProduceRecordBuffered(*kgo.Record) {
	if m.taken++; m.taken == 25 {
		select {
		case <-m.failed:
		case <-m.granted:
		}
	}
}

// OnProduceRecordUnbuffered is called before the client tells what has become of a record.
func (m *moment) OnProduceRecordUnbuffered(_ *kgo.Record, err error) {
	if err != nil {
		m.once.Do(func() {
			close(m.failed)
			<-m.stored
		})
	}
}
