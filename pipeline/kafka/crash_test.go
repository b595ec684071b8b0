package kafka_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

// Connections that are cut at any moment, and writes that time out, repeat nothing and lose nothing.
func TestConnectionsCut(t *testing.T) {
	const rows, keys = 20_000, 50
	c := startCluster(t)
	sink := pipeline.Retry(pipeline.Timeout(open(t, c.ListenAddrs()), 15*time.Millisecond), soon)
	var entries []walchantest.Entry
	for i := range rows {
		entries = append(entries, items.Insert(i%keys, fmt.Sprint(i/keys)))
	}
	msgs := walchantest.Messages(entries...)
	written := make(chan error, 1)
	go func() {
		for i := 0; i < rows; i += 500 {
			if err := sink.Write(t.Context(), msgs[i:i+500]); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for cuts := 0; ; cuts++ {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond): // any moment
			c.cut()
			continue
		}
		if cuts < 5 {
			t.Errorf("only %d cuts", cuts)
		}
		break
	}
	var want []string
	for n := range rows / keys {
		want = append(want, fmt.Sprint(n))
	}
	got := map[string][]string{}
	for _, r := range records(t, c.ListenAddrs(), "items") {
		var v struct{ V string }
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatal(err)
		}
		got[string(r.Key)] = append(got[string(r.Key)], v.V)
	}
	for k, vs := range got {
		if !slices.Equal(vs, want) {
			t.Errorf("%s has %d values: %.300v", k, len(vs), vs)
		}
	}
	if len(got) != keys {
		t.Errorf("%d keys", len(got))
	}
}
