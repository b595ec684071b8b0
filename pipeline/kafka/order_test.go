package kafka_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/pipeline/kafka"
	"github.com/walchan/walchan/walchantest"
)

// Records that fail are not overtaken by those of the batch that the client takes later: who reads would take the former for
// repetitions when they come.
func TestNothingOvertakesWhatHasFailed(t *testing.T) {
	const rows = 1000
	c := startCluster(t)
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
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
		time.Sleep(100 * time.Millisecond) // the client has all it can buffer by then
		return resp, nil, true             // once
	})
	sink, err := kafka.Open(t.Context(), client(t, c.ListenAddrs(), kgo.MaxBufferedRecords(50)))
	if err != nil {
		t.Fatal(err)
	}
	var entries []walchantest.Entry
	for i := range rows {
		entries = append(entries, items.Insert(i, "x"))
	}
	counted := pipeline.Count(sink)
	if err := pipeline.Retry(counted, soon).Write(t.Context(), walchantest.Messages(entries...)); err != nil {
		t.Fatal(err)
	}
	last, n := map[int32]string{}, 0
	for _, r := range records(t, c.ListenAddrs(), "items") {
		p := header(r, "walchan-position")
		if p <= last[r.Partition] {
			t.Fatalf("partition %d: %s comes behind %s", r.Partition, p, last[r.Partition])
		}
		last[r.Partition] = p
		n++
	}
	if n != rows || counted.Stats().Errors == 0 {
		t.Errorf("%d records of %d rows, after %d errors", n, rows, counted.Stats().Errors)
	}
}
