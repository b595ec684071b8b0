package encode_test

import (
	"fmt"
	"os"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
	"github.com/walchan/walchan/walchantest"
)

// messages stands for what comes from a stream's channel.
func messages() []walchan.Message {
	books := walchantest.NewTable("books", "id bigint primary key", "title text")
	return walchantest.Messages(books.Insert(1, "Emma"), books.Update(2, "Emma").From(1), books.Delete(2))
}

func ExampleBottledwater() {
	e := encode.Bottledwater{Database: "shop"}
	var line []byte // used again and again
	for _, msg := range messages() {
		var err error
		if line, err = e.Append(line[:0], msg); err != nil {
			fmt.Println(err)
			continue
		}
		os.Stdout.Write(append(line, '\n'))
	}
	// Output:
	// { "command": "INSERT", "xid": 700, "wal_pos": "0/1000080", "dbname": "shop", "relname": "books", "relnamespace": "public", "key": ["id"], "newtuple": {"id":1,"title":"Emma"} }
	// { "command": "UPDATE", "xid": 701, "wal_pos": "0/10001B0", "dbname": "shop", "relname": "books", "relnamespace": "public", "key": ["id"], "newtuple": {"id":2,"title":"Emma"}, "oldtuple": {"id":1} }
	// { "command": "DELETE", "xid": 702, "wal_pos": "0/10002E0", "dbname": "shop", "relname": "books", "relnamespace": "public", "key": ["id"], "oldtuple": {"id":2} }
}

// What goes to a log that is compacted by its keys.
func ExampleOldKey() {
	for _, msg := range messages() {
		key, _ := encode.Key(nil, msg)
		old, _ := encode.OldKey(nil, msg)
		if len(old) > 0 {
			fmt.Printf("%s → null\n", old)
		}
		if encode.Tombstone(msg) {
			fmt.Printf("%s → null\n", key)
			continue
		}
		row, _ := msg.New().AppendJSON(nil)
		fmt.Printf("%s → %s\n", key, row)
	}
	// Output:
	// {"id":1} → {"id":1,"title":"Emma"}
	// {"id":1} → null
	// {"id":2} → {"id":2,"title":"Emma"}
	// {"id":2} → null
}
