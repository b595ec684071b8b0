package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What the sinks hold at the end is read here, past the network that fails, and compared. All but Kafka's and PostgreSQL's is
// the same as a journal.

// compareFiles reads the files of pipeline.OpenFiles. What a process writes again is allowed once it is another process.
func compareFiles(d due, path string) (verdict, error) {
	cmp := newComparison(d.published)
	names, err := filepath.Glob(strings.TrimSuffix(path, filepath.Ext(path)) + "-*")
	if err != nil {
		return verdict{}, err
	}
	slices.Sort(names)
	life := ""
	for _, name := range names {
		all, err := os.ReadFile(name)
		if err != nil {
			return verdict{}, err
		}
		if len(all) > 0 && all[len(all)-1] != '\n' {
			return verdict{}, found("%s ends with a part of a line", name)
		}
		lines := bufio.NewScanner(bytes.NewReader(all))
		for lines.Scan() {
			parts := strings.SplitN(lines.Text(), "\t", 3)
			if len(parts) != 3 {
				return verdict{}, found("%s: malformed line %q", name, lines.Text())
			}
			if parts[0] != life {
				life = parts[0]
				cmp.take(seen{start: true})
			}
			cmp.take(seen{position: parts[1], content: parts[2]})
		}
	}
	cmp.ascending()
	return cmp.result(d.partial), nil
}

// compareJetStream reads the stream. Nothing may be there twice, whoever published it.
func compareJetStream(ctx context.Context, d due, url, name string) (verdict, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return verdict{}, err
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return verdict{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return verdict{}, err
	}
	cmp := newComparison(d.published)
	cmp.take(seen{start: true})
	consumer, err := stream.OrderedConsumer(ctx, natsjs.OrderedConsumerConfig{})
	if err != nil {
		return verdict{}, err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return verdict{}, err
	}
	defer messages.Stop()
	for left := stream.CachedInfo().State.Msgs; left > 0; left-- {
		m, err := messages.Next(natsjs.NextContext(ctx))
		if err != nil {
			return verdict{}, fmt.Errorf("%d messages are missing: %w", left, err)
		}
		if strings.HasSuffix(m.Subject(), ".progress") {
			continue // a checkpoint, and no change
		}
		cmp.take(seen{position: positionOf(m.Headers().Get(natsjs.MsgIDHeader)), content: string(m.Data())})
	}
	cmp.ascending()
	return cmp.result(d.partial), nil
}

// partition is one of a topic.
type partition struct {
	topic  string
	number int32
}

// compareKafka reads the topics.
func compareKafka(ctx context.Context, d due, broker string) (verdict, error) {
	all, err := readTopics(ctx, broker)
	if err != nil {
		return verdict{}, err
	}
	return judgeRecords(d, all)
}

// A record is one of Kafka's, as an effect has it.
type record struct {
	row, line string
	position  string
	producer  int64 // another one in each process
}

// judgeRecords compares each partition. The records must be in the order in which they were due, and what is there again must be
// of another process: then all from some record on is there again. Who leaves out what is recognised as there again has the
// last state of each row, and so has who does not, unless something of a killed process came late.
func judgeRecords(d due, all map[partition][]record) (total verdict, err error) {
	homes, plain, once := map[string]partition{}, map[string]string{}, map[string]string{}
	for p, records := range all {
		var last place
		rows := map[string]bool{} // at the last position
		for _, r := range records {
			if home, ok := homes[r.row]; ok && home != p {
				total.complain(&total.Misplaced, "misplaced: %s is in %v and in %v", r.row, home, p)
			}
			homes[r.row], plain[r.row] = p, r.line
			at, err := parsePlace(r.position)
			if err != nil {
				return total, err
			}
			if last.before(at) {
				last = at
				clear(rows)
			}
			if at == last && !rows[r.row] {
				rows[r.row], once[r.row] = true, r.line
			}
		}
	}
	want, final := wantOfKafka(d.reference, homes)
	for p, lines := range want {
		total.add(comparePartition(lines, all[p], d.partial))
	}
	if d.partial {
		return total, nil
	}
	for row, line := range final {
		if once[row] != line || plain[row] != line && total.Late == 0 {
			total.complain(&total.Reordered, "the last record of %s is %q, without repetitions %q, and should be %q", row, plain[row], once[row], line)
		}
	}
	return total, nil
}

func comparePartition(want []string, records []record, partial bool) verdict {
	cmp := newComparison(want)
	producer, were := int64(-1), map[int64]bool{}
	for _, r := range records {
		if r.producer != producer {
			were[producer] = true
			producer = r.producer
			cmp.take(seen{start: true})
			if were[producer] {
				cmp.Late++
			}
		}
		cmp.take(seen{position: r.position, content: r.line})
	}
	return cmp.result(partial)
}

// wantOfKafka returns the lines that each partition should have, and the last one of each row. Where a row is is Kafka's
// choice; one that is nowhere is missed in partition 0.
func wantOfKafka(ref *reference, homes map[string]partition) (want map[partition][]string, last map[string]string) {
	want, last = map[partition][]string{}, map[string]string{}
	put := func(row, line string) {
		p, ok := homes[row]
		if !ok {
			topic, _, _ := strings.Cut(row, " ")
			p = partition{topic, 0}
		}
		want[p], last[row] = append(want[p], line), line
	}
	for _, e := range ref.effects {
		if e.gone != "" {
			put(e.gone, e.gone+" gone")
		}
		if e.row != "" {
			put(e.row, e.record)
		}
	}
	return want, last
}

// readTopics returns the records of each partition.
func readTopics(ctx context.Context, broker string) (map[partition][]record, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	topics := slices.Collect(maps.Keys(identifying))
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	all := map[partition][]record{}
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%d records are missing: %w", left, errors.Join(ctx.Err(), fetches.Err()))
		}
		for _, r := range fetches.Records() {
			row, line, err := describeRecord(r)
			if err != nil {
				return nil, err
			}
			p := partition{r.Topic, r.Partition}
			all[p] = append(all[p], record{row, line, positionOf(headerOf(r, "walchan-id")), r.ProducerID})
			left--
		}
	}
	return all, nil
}

// positionOf takes the position out of what Message.ID returns, to which JetStream's sink adds what tells parts apart.
func positionOf(id string) string {
	fields := strings.Split(id, ":")
	if len(fields) != 5 {
		return id
	}
	ordinal, _, _ := strings.Cut(fields[4], ".")
	ordinal, _, _ = strings.Cut(ordinal, "~")
	return fields[1] + ":" + ordinal
}

func headerOf(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// describeRecord describes a record as an effect does: the row, and what was sent of it.
func describeRecord(r *kgo.Record) (row, line string, err error) {
	from := r.Key
	if from == nil {
		from = r.Value // of a table without key
	}
	columns, err := columnsOf(from)
	if err != nil || len(columns) == 0 {
		return "", "", fmt.Errorf("record of %s: %q, %q (%v)", r.Topic, r.Key, r.Value, err)
	}
	row = r.Topic + " " + columns[0][1]
	if r.Value == nil {
		return row, row + " gone", nil
	}
	if columns, err = columnsOf(r.Value); err != nil {
		return "", "", fmt.Errorf("record of %s: %q (%v)", r.Topic, r.Value, err)
	}
	var b strings.Builder
	b.WriteString(r.Topic)
	for _, c := range columns {
		if c[0] == "at" { // as PostgreSQL writes it
			c[1] = strings.TrimSuffix(strings.Replace(c[1], "T", " ", 1), ":00")
		}
		field(&b, c[0], c[1])
	}
	return row, b.String(), nil
}

// columnsOf returns names and values of an object, in order.
func columnsOf(object []byte) (columns [][2]string, err error) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	var name string
	for n := 0; ; n++ {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch v := token.(type) {
		case json.Delim:
			if v == '}' {
				return columns, nil
			}
			continue
		case nil:
			token = "null"
		}
		if n%2 == 1 {
			name = fmt.Sprint(token)
		} else {
			columns = append(columns, [2]string{name, fmt.Sprint(token)})
		}
	}
}
