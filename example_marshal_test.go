package walchan_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/walchantest"
)

func update() walchan.Message {
	orders := walchantest.NewTable("orders", "id bigint primary key", "status text", "total numeric")
	return walchantest.Messages(orders.Update(2, "paid", "19.90").From(1))[0]
}

// JSON has the whole message, with the values of its rows.
func ExampleMessage_MarshalJSON() {
	b, err := json.Marshal(update())
	fmt.Println(string(b), err)
	// Output:
	// {"kind":"update","schema":"public","table":"orders","xid":700,"position":"0/1000100:2","time":"2026-01-01T00:00:00Z","old":{"id":1},"new":{"id":2,"status":"paid","total":19.90}} <nil>
}

// Package fmt shows what a message is about, and none of its values.
func ExampleMessage_Format() {
	msg := update()
	fmt.Printf("%v\n%+v\n", msg, struct{ Job walchan.Row }{msg.New()})
	// Output:
	// update public.orders xid 700 at 0/1000100:2
	// {Job:public.orders, 3 columns}
}

// Logs show what a message is about, and none of its values.
func ExampleMessage_LogValue() {
	msg := update()
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	log.Warn("cannot be stored", "change", msg, "row", msg.New(), "kind", msg.Kind)
	// Output:
	// level=WARN msg="cannot be stored" change="update public.orders xid 700 at 0/1000100:2" row="public.orders, 3 columns" kind=update
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func ExampleParsePosition() {
	last, err := walchan.ParsePosition("0/1000100:2") // as it was stored
	if err != nil {
		fmt.Println(err)
		return
	}
	if p, ok := update().Position(); ok && p.Compare(last) <= 0 {
		fmt.Println("applied before")
	}
	// Output: applied before
}

func ExampleStats_MarshalJSON() {
	b, err := json.Marshal(walchan.Stats{State: walchan.StateBlocked, Delivered: 100, Unacked: 3, Received: 0x16_B374D848})
	fmt.Println(string(b), err)
	// Output:
	// {"state":"blocked","delivered":100,"unacked":3,"buffered":0,"lag_bytes":0,"spooled":0,"unproven":false,"reconnects":0,"late_acks":0,"received":"16/B374D848","oldest_age_seconds":0,"lag_seconds":0} <nil>
}
