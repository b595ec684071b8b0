package main

import (
	"github.com/walchan/walchan"
	"github.com/walchan/walchan/pipeline/encode"
)

// format makes what an output takes of messages. What is still held back comes with Flush; Restart is for a file that is empty
// again.
type format interface {
	Append(b []byte, m walchan.Message) ([]byte, error)
	Flush(b []byte) ([]byte, error)
	Restart() error
}

func newFormat(name, database string, out *output) (format, error) {
	switch name {
	case "avro":
		return newContainer(database, out)
	case "debezium":
		return lines{encode.Debezium{Version: "walchan", Name: database, Database: database}}, nil
	case "wal2json":
		return lines{encode.Wal2JSON{}}, nil
	}
	return lines{encode.Bottledwater{Database: database}}, nil
}

// lines are those of an encoder.
type lines struct {
	encoder interface {
		Append(b []byte, m walchan.Message) ([]byte, error)
	}
}

func (l lines) Append(b []byte, m walchan.Message) ([]byte, error) {
	start := len(b)
	b, err := l.encoder.Append(b, m)
	if len(b) > start {
		b = append(b, '\n')
	}
	return b, err
}

func (l lines) Flush(b []byte) ([]byte, error) { return b, nil }

func (l lines) Restart() error { return nil }
