package walchan_test

import (
	"testing"
	"time"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/fakewal"
)

// Of a stream that is behind, acknowledgements cost no wake-up: the server hears of them when the next changes are read.
func TestALateStreamIsNotWokenByAcknowledgements(t *testing.T) {
	noLeaks(t)
	srv := fakewal.New()
	srv.Update(func(s *fakewal.State) {
		s.Publications = []string{"p"}
		s.Slots["p"] = fakewal.LogicalSlot(0x100)
	})
	const transactions = 300
	statuses, lasted := 0, make(chan time.Duration, 1)
	srv.Serve(func(c *fakewal.Conn) error {
		began, end := time.Now(), fakewal.LSN(0)
		for i := range transactions {
			for _, f := range tx(700+uint32(i), 0x1000*fakewal.LSN(i+1), "1").Frames() {
				if err := c.Play(f); err != nil {
					return err
				}
				end = f.End
			}
			time.Sleep(time.Millisecond) // a server that decodes slowly
		}
		_, err := c.AwaitFlush(end)
		statuses = len(c.Statuses())
		lasted <- time.Since(began)
		return err
	})
	if _, err := srv.Listen(); err != nil {
		t.Fatal(err)
	}
	s, err := walchan.Subscribe(t.Context(), fakewal.DSN, walchan.WithSlot("p"), walchan.WithPublication("p"), walchan.WithConnect(srv.Configure))
	if err != nil {
		t.Fatal(err)
	}
	for range transactions {
		s.Ack(<-s.C())
	}
	d := <-lasted
	if most := int(d/(4*time.Millisecond)) + 10; statuses > most { // it reads every 10 ms, and could be woken every 1 ms
		t.Errorf("%d statuses in %v: more than %d", statuses, d, most)
	}
	t.Logf("%d statuses in %v", statuses, d)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}
