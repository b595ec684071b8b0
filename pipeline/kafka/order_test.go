package kafka_test

import (
	"errors"
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
	for _, r := range writeAgain(t, c, 50, entries...) {
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
	same(t, byKey(writeAgain(t, c, 1, items.Update(2, "x").From(1, nil))), map[string]string{`{"id":1}`: "", `{"id":2}`: `{"id":2,"v":"x"}`})
}

// writeAgain writes with a client that buffers so many records, until what was refused is stored, and returns what is.
func writeAgain(t *testing.T, c *cluster, buffered int, entries ...walchantest.Entry) []*kgo.Record {
	t.Helper()
	sink, err := kafka.Open(t.Context(), client(t, c.ListenAddrs(), kgo.MaxBufferedRecords(buffered)))
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
	c.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
		time.Sleep(100 * time.Millisecond) // the client has taken all it can buffer
		c.ControlKey(int16(kmsg.ApiVersions), func(kmsg.Request) (kmsg.Response, error, bool) {
			return nil, errors.New("out of reach"), true
		})
		return nil, errors.New("out of reach"), true // the connection ends, and so does the next one
	})
	var entries []walchantest.Entry
	for i := range 200 {
		entries = append(entries, items.Insert(i, "x"))
	}
	last := map[int32]string{}
	for _, r := range writeAgain(t, c, 50, entries...) {
		p := header(r, "walchan-id")
		if p <= last[r.Partition] {
			t.Fatalf("partition %d: %s comes behind %s", r.Partition, p, last[r.Partition])
		}
		last[r.Partition] = p
	}
}
