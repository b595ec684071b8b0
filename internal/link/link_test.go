package link

import (
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/walchan/walchan/wal"
)

var zero = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return zero.Add(d) }

func TestStatusIsDue(t *testing.T) {
	const ms = time.Millisecond
	for name, x := range map[string]struct {
		status Status
		want   time.Duration // after zero, at which the last one was sent
	}{
		"in time":                               {Status{Interval: 10 * time.Second, Since: at(-time.Hour)}, 10 * time.Second},
		"there is news":                         {Status{Interval: 10 * time.Second, Since: at(-time.Hour), Told: 1, Confirmed: 2}, ms},
		"there is news, and it was asked":       {Status{Interval: 10 * time.Second, Since: at(-time.Hour), Told: 1, Confirmed: 2, WantsReply: true}, ms},
		"the server asked":                      {Status{Interval: 10 * time.Second, Since: at(-time.Hour), Told: 2, Confirmed: 2, WantsReply: true}, 100 * ms},
		"it asked, and the interval is shorter": {Status{Interval: 50 * ms, Since: at(-time.Hour), WantsReply: true}, 50 * ms},
		"the first on a connection":             {Status{Interval: 10 * time.Second, Since: zero}, 20 * ms},
		"pauses double":                         {Status{Interval: 10 * time.Second, Since: at(-3 * time.Second)}, 3 * time.Second},
		"up to the interval":                    {Status{Interval: 10 * time.Second, Since: at(-30 * time.Second)}, 10 * time.Second},
		"an interval below the first pause":     {Status{Interval: 5 * ms, Since: zero}, 5 * ms},
	} {
		x.status.At = zero
		if got := x.status.Due().Sub(zero); got != x.want {
			t.Errorf("%s: due after %v, want %v", name, got, x.want)
		}
	}
	var s Status // nothing was sent yet
	if !s.Due().Before(zero) {
		t.Errorf("the first one is due at %v", s.Due())
	}
	s = Status{Told: 1, Confirmed: 5, WantsReply: true}
	s.Sent(zero)
	if s != (Status{Told: 5, Confirmed: 5, At: zero}) || s.HasNews() {
		t.Errorf("after a status: %+v", s)
	}
}

func TestLivenessSuspects(t *testing.T) {
	l := Liveness{Timeout: time.Minute}
	l.Heard(zero)
	for _, step := range []struct {
		now  time.Duration
		want Suspicion
		next time.Duration
		then func()
	}{
		{0, None, 30 * time.Second, nil},
		{29 * time.Second, None, 30 * time.Second, nil},
		{30 * time.Second, Ask, 30 * time.Second, func() { l.Asked(at(31 * time.Second)) }},
		{32 * time.Second, None, 61 * time.Second, nil},
		{61 * time.Second, Doubt, 61 * time.Second, nil}, // a caller that learns that it is busy looks again by itself
		{62 * time.Second, Doubt, 62 * time.Second, func() { l.Heard(at(63 * time.Second)) }},
		{64 * time.Second, None, 93 * time.Second, nil},
		{93 * time.Second, Ask, 93 * time.Second, nil},
	} {
		got, next := l.Suspect(at(step.now))
		if got != step.want || next != at(step.next) {
			t.Errorf("after %v: %v, then at %v; want %v, %v", step.now, got, next.Sub(zero), step.want, step.next)
		}
		if step.then != nil {
			step.then()
		}
	}
}

func TestFlow(t *testing.T) {
	f := Flow{DataAt: zero}
	for _, step := range []struct {
		now  time.Duration
		busy bool
		idle bool
	}{
		{500 * time.Millisecond, false, false},
		{time.Second, false, true},
		{1100 * time.Millisecond, true, false},
		{2 * time.Second, false, false},
		{2100 * time.Millisecond, false, true},
	} {
		f.Busy, f.Lag = f.Busy || step.busy, time.Hour
		if got := f.Idle(at(step.now)); got != step.idle || (f.Lag == 0) != step.idle {
			t.Errorf("after %v: idle is %v, lag %v", step.now, got, f.Lag)
		}
	}
	for lag, want := range map[time.Duration]time.Duration{0: 0, 8 * time.Millisecond: 2 * time.Millisecond, 20 * time.Millisecond: 5 * time.Millisecond, time.Hour: 10 * time.Millisecond} {
		f.Lag = lag
		if got := f.Patience(); got != want || f.Gathers() != (lag > 10*time.Millisecond) {
			t.Errorf("a lag of %v: patience %v, gathers %v", lag, got, f.Gathers())
		}
	}
}

// A timer that the user does not set follows from the server's wal_sender_timeout.
func TestTimers(t *testing.T) {
	const ms = time.Millisecond
	for name, x := range map[string]struct {
		wanted  Timers
		sender  time.Duration
		want    Timers
		tooLong bool
		unread  time.Duration
	}{
		"nothing is said":               {Timers{}, 0, Timers{10 * time.Second, time.Minute, 0}, false, 10 * time.Second},
		"the default":                   {Timers{}, time.Minute, Timers{10 * time.Second, time.Minute, time.Minute}, false, 10 * time.Second},
		"a short timeout":               {Timers{}, 3 * time.Second, Timers{500 * ms, 3 * time.Second, 3 * time.Second}, false, 500 * ms},
		"a very short one":              {Timers{}, 120 * ms, Timers{100 * ms, 120 * ms, 120 * ms}, false, 100 * ms},
		"a long one":                    {Timers{}, time.Hour, Timers{10 * time.Second, time.Hour, time.Hour}, false, 10 * time.Second},
		"the user asks for both":        {Timers{Status: time.Second, Receive: 5 * time.Second}, time.Minute, Timers{time.Second, 5 * time.Second, time.Minute}, false, time.Second},
		"for half of the timeout":       {Timers{Status: 30 * time.Second}, time.Minute, Timers{30 * time.Second, time.Minute, time.Minute}, false, 10 * time.Second},
		"for more":                      {Timers{Status: 31 * time.Second}, time.Minute, Timers{31 * time.Second, time.Minute, time.Minute}, true, 10 * time.Second},
		"for much, of a patient server": {Timers{Status: time.Hour}, 0, Timers{time.Hour, time.Minute, 0}, false, time.Hour},
	} {
		got, tooLong := x.wanted.With(x.sender)
		if got != x.want || tooLong != x.tooLong || got.Unread() != x.unread {
			t.Errorf("%s: %v, too long: %v, unread %v", name, got, tooLong, got.Unread())
		}
	}
}

// An outage goes on until a connection brings something new, or lasts. Then the delays begin anew.
func TestOutage(t *testing.T) {
	retry := func() backoff.BackOff {
		return backoff.WithMaxRetries(&backoff.ExponentialBackOff{InitialInterval: 1, Multiplier: 2, MaxInterval: 8, Stop: backoff.Stop, Clock: backoff.SystemClock}, 3)
	}
	var o Outage
	for i, step := range []struct {
		received wal.LSN
		lived    time.Duration
		attempt  int
		delay    time.Duration
		ok       bool
	}{
		{7, time.Second, 1, 1, true},
		{7, time.Second, 2, 2, true},
		{8, time.Second, 1, 1, true}, // it brought something new
		{8, time.Minute, 2, 2, true},
		{8, time.Minute + 1, 1, 1, true}, // it has lasted
		{5, time.Second, 2, 2, true},
		{8, 0, 3, 4, true},
		{8, 0, 4, backoff.Stop, false},
	} {
		o.Lost(step.received, step.lived)
		if delay, ok := o.Next(retry); delay != step.delay || ok != step.ok || o.Attempt != step.attempt {
			t.Errorf("step %d: attempt %d, delay %d, %v", i, o.Attempt, delay, ok)
		}
	}
	if o.At != 8 {
		t.Errorf("it is at %s", o.At)
	}
}

func TestShutdownIsNoticed(t *testing.T) {
	type event func(s *Shutdown, now time.Time)
	ping := func(lsn wal.LSN, untold time.Duration) event {
		return func(s *Shutdown, _ time.Time) { s.Ping(lsn, untold) }
	}
	refused := event(nil)
	for name, x := range map[string]struct {
		timeout time.Duration
		events  []event // one each 10 ms
		want    Step
	}{
		"nothing happens":                    {time.Minute, nil, Stay},
		"one early ping":                     {time.Minute, []event{ping(1, 0)}, Stay},
		"the first at a position is none":    {time.Minute, []event{ping(1, 0), ping(1, 0), ping(1, 0)}, Stay},
		"three more":                         {time.Minute, []event{ping(1, 0), ping(1, 0), ping(1, 0), ping(1, 0)}, Announce},
		"at other positions":                 {time.Minute, []event{ping(1, 0), ping(2, 0), ping(3, 0), ping(4, 0), ping(5, 0)}, Stay},
		"it has not heard of us for long":    {time.Minute, []event{ping(1, 31*time.Second), ping(1, 31*time.Second), ping(1, 31*time.Second), ping(1, 31*time.Second)}, Stay},
		"no timeout: then every ping counts": {0, []event{ping(1, time.Hour), ping(1, time.Hour), ping(1, time.Hour), ping(1, time.Hour)}, Announce},
		"a probe was refused":                {time.Minute, []event{refused}, Announce},
	} {
		s, no := Shutdown{SenderTimeout: x.timeout}, false
		s.Begin(zero)
		now := zero
		for _, e := range x.events {
			if now = now.Add(10 * time.Millisecond); e != nil {
				e(&s, now)
			} else {
				no = true
			}
		}
		step, next := s.Next(now, no)
		if step != x.want {
			t.Errorf("%s: step %v, want %v", name, step, x.want)
		}
		if step != Announce {
			continue
		}
		if !s.IsNoticed() || next != now.Add(Grace) {
			t.Errorf("%s: noticed %v, it is let go after %v", name, s.IsNoticed(), next.Sub(now))
		}
		for after, want := range map[time.Duration]Step{time.Second: Stay, Grace: Leave, time.Hour: Leave} {
			if step, _ := s.Next(now.Add(after), no); step != want {
				t.Errorf("%s: %v later step %v, want %v", name, after, step, want)
			}
		}
	}
}

// A stream that has not caught up asks over another connection whether the server is stopping.
func TestShutdownProbes(t *testing.T) {
	s := Shutdown{SenderTimeout: time.Minute}
	s.Begin(zero)
	for _, step := range []struct {
		now    time.Duration
		before func()
		want   Step
		next   time.Duration
	}{
		{time.Second, nil, Stay, 3 * time.Second},
		{3 * time.Second, nil, Probe, 6 * time.Second},
		{4 * time.Second, nil, Stay, 6 * time.Second},
		{6 * time.Second, nil, Probe, 9 * time.Second},
		{7 * time.Second, func() { s.Waited(at(7*time.Second), 1500*time.Millisecond) }, Stay, 10 * time.Second}, // it had nothing for so long
		{8 * time.Second, func() { s.Waited(at(8*time.Second), 2*time.Millisecond) }, Stay, 10 * time.Second},    // that alone says nothing,
		{9 * time.Second, s.Keepalive, Stay, 11 * time.Second},                                                   // but with what the server says
		{11 * time.Second, func() { s.Waited(at(11*time.Second), 0) }, Probe, 14 * time.Second},
	} {
		if step.before != nil {
			step.before()
		}
		if got, next := s.Next(at(step.now), false); got != step.want || next != at(step.next) {
			t.Errorf("after %v: step %v, then at %v; want %v, %v", step.now, got, next.Sub(zero), step.want, step.next)
		}
	}
}
