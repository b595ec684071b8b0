package session

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// Records come as they were sent, in whatever pieces, and one that is said to be there is read without waiting.
func TestReadAhead(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var sent []byte
	for range 3000 {
		n := r.IntN(100)
		sent = append(append(sent, 23, 3, 3, byte(n>>8), byte(n)), bytes.Repeat([]byte{byte(n)}, n)...)
	}
	src := &pieces{src: bytes.NewReader(sent), r: r}
	a := readAhead(src)
	var got []byte
	there := 0
	for len(got) < len(sent) {
		reads, held := src.reads, a.holdsRecord()
		head := make([]byte, 5)
		if _, err := io.ReadFull(a, head); err != nil {
			t.Fatal(err)
		}
		body := make([]byte, int(head[3])<<8+int(head[4]))
		if _, err := io.ReadFull(a, body); err != nil {
			t.Fatal(err)
		}
		if held && src.reads > reads {
			t.Fatal("a record that was said to be there had to be waited for")
		} else if held {
			there++
		}
		got = append(append(got, head...), body...)
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes came")
	}
	if there < 1000 {
		t.Errorf("only %d of 3000 records were said to be there", there)
	}
}

// pieces is a connection whose bytes come in pieces.
type pieces struct {
	net.Conn
	src   io.Reader
	r     *rand.Rand
	reads int
}

func (p *pieces) Read(b []byte) (int, error) {
	p.reads++
	return p.src.Read(b[:1+p.r.IntN(min(len(b), 400))])
}
