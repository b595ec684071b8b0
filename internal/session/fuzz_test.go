package session

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// FuzzFrames reads any bytes as a server's stream: there is no panic, the buffer grows no further than twice what came, and
// how the bytes are cut up by the network makes no difference.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{'d', 0, 0, 0, 4 + 18, 'k', 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{'d', 0, 0, 0, 4 + 26, 'w', 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 'B'})
	f.Add([]byte{'d', 0x3f, 0xff, 0xff, 0xff, 'w'})
	f.Add([]byte{'d', 0xff, 0xff, 0xff, 0xff, 'w'})
	f.Add([]byte{'d', 0, 0, 0, 3, 'w'})
	f.Add([]byte{'c', 0, 0, 0, 4, 'C', 0, 0, 0, 11, 'C', 'O', 'P', 'Y', ' ', '0', 0, 'Z', 0, 0, 0, 5, 'I'})
	f.Add([]byte{'E', 0, 0, 0, 4 + 8, 'C', '5', '7', 'P', '0', '1', 0, 0})
	f.Add([]byte{'N', 0, 0, 0, 4 + 4, 'S', 'x', 0, 0, 'S', 0, 0, 0, 4 + 4, 'a', 0, 'b', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, wholeErr := frames(bytes.NewReader(b), len(b), t)
		single, singleErr := frames(iotest.OneByteReader(bytes.NewReader(b)), len(b), t)
		if !bytes.Equal(whole, single) || (wholeErr == nil) != (singleErr == nil) {
			t.Fatalf("%x (%v) in one piece, %x (%v) byte by byte", whole, wholeErr, single, singleErr)
		}
		// As pgx reads it, during start-up.
		r := &reader{src: bytes.NewReader(b)}
		if got, _ := io.ReadAll(r); !bytes.HasPrefix(b, got) || len(b)-len(got) >= 5 && wholeErr == nil {
			t.Fatalf("pgx would read %x", got)
		}
	})
}

// frames returns all data of the stream in b, one after another, and the error that ends it.
func frames(src io.Reader, size int, t *testing.T) (data []byte, err error) {
	c := &Conn{in: &reader{src: src}, notice: func(*pgconn.Notice) {}}
	var f Frame
	for {
		ok, err := c.Next(&f)
		switch {
		case err != nil:
			return data, err
		case ok:
			data = append(append(data, f.Data...), byte(f.Start), byte(f.End))
			continue
		}
		if err := c.Fill(); err != nil {
			if err == io.EOF {
				return data, nil
			}
			return data, err
		}
		if len(c.in.buf) > max(maxBuffer, 2*size) {
			t.Fatalf("a buffer of %d for %d bytes", len(c.in.buf), size)
		}
	}
}

// pgx must find nothing in its own buffer that belongs to the stream.
func TestPgxReadsNothingBeyondItsMessage(t *testing.T) {
	var b []byte
	for _, m := range []pgproto3.BackendMessage{&pgproto3.ParameterStatus{Name: "a", Value: "b"}, &pgproto3.CopyBothResponse{}, &pgproto3.CopyData{Data: []byte("data")}} {
		b, _ = m.Encode(b)
	}
	r := &reader{src: bytes.NewReader(b)}
	pgx := pgproto3.NewFrontend(r, io.Discard)
	for range 2 {
		if _, err := pgx.Receive(); err != nil {
			t.Fatal(err)
		}
		if n := pgx.ReadBufferLen(); n != 0 {
			t.Fatalf("pgx holds %d bytes", n)
		}
	}
	kind, body, ok, err := r.frame()
	if kind != 'd' || string(body) != "data" || !ok || err != nil {
		t.Fatalf("%q %q %v %v", kind, body, ok, err)
	}
}

// A read that times out in the middle of a frame goes on where it was.
func TestTimeoutInTheMiddleOfAFrame(t *testing.T) {
	var b []byte
	for range 3 {
		b, _ = (&pgproto3.CopyData{Data: bytes.Repeat([]byte("x"), 1000)}).Encode(b)
	}
	r := &reader{src: iotest.OneByteReader(&flaky{r: bytes.NewReader(b)})}
	got, timeouts := 0, 0
	for got < 3 {
		_, body, ok, err := r.frame()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			if len(body) != 1000 {
				t.Fatal(len(body))
			}
			got++
			continue
		}
		if err := r.fill(); errors.Is(err, os.ErrDeadlineExceeded) {
			timeouts++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if timeouts < 100 {
		t.Fatal(timeouts)
	}
}

type flaky struct {
	r io.Reader
	n int
}

func (f *flaky) Read(b []byte) (int, error) {
	if f.n++; f.n%3 == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return f.r.Read(b)
}
