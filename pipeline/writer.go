package pipeline

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/walchan/walchan"
)

// Encoder appends v in some format to b. What writes into files ends it with a line break, unless it has one, and writes
// nothing where nothing was appended. An error refuses the item (RefusedError). JSON is one; package encode has others.
type Encoder[T any] func(b []byte, v T) ([]byte, error)

// JSON is the Encoder of messages as JSON objects, with their data: see walchan.Message.MarshalJSON.
func JSON(b []byte, m walchan.Message) ([]byte, error) {
	j, err := m.MarshalJSON()
	return append(b, j...), err
}

// appendLines appends a batch.
func appendLines[T any](b []byte, encode Encoder[T], batch []T) ([]byte, error) {
	for i, v := range batch {
		start := len(b)
		var err error
		if b, err = encode(b, v); err != nil {
			return b, &RefusedError{Item: i, Err: fmt.Errorf("encode: %w", err)}
		}
		if len(b) > start && b[len(b)-1] != '\n' {
			b = append(b, '\n')
		}
	}
	return b, nil
}

// Writer is a Sink that writes lines to an io.Writer.
type Writer[T any] struct {
	w      io.Writer
	sync   func() error
	encode Encoder[T]
	buf    []byte
}

// NewWriter returns a Sink that writes each batch to w at once, and has it synced if w has a method Sync, as an *os.File has.
// After an error a part of the batch may have been written, and will be there twice if it is written again: Files does
// better. What w is, is the caller's to close.
func NewWriter[T any](w io.Writer, encode Encoder[T]) *Writer[T] {
	s := &Writer[T]{w: w, encode: encode, sync: func() error { return nil }}
	if f, ok := w.(interface{ Sync() error }); ok && !isStream(w) {
		s.sync = f.Sync
	}
	return s
}

// isStream says whether w is a pipe or a terminal, which cannot be synced.
func isStream(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && !info.Mode().IsRegular()
}

// Write writes a line for each item of the batch.
func (s *Writer[T]) Write(_ context.Context, batch []T) (err error) {
	if s.buf, err = appendLines(s.buf[:0], s.encode, batch); err != nil {
		return err
	}
	if len(s.buf) == 0 {
		return nil
	}
	if _, err := s.w.Write(s.buf); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := s.sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}
