package pipeline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walchan/walchan/pipeline"
	"github.com/walchan/walchan/walchantest"
)

func TestJSON(t *testing.T) {
	msgs := walchantest.Messages(
		items.Insert(1, "a\nb"),
		items.Update(2, nil).From(1, "a"),
		items.Delete(2),
		walchantest.Truncate(items),
		walchantest.LogicalMessage(false, "p", "say \"x\""),
	)
	var b []byte
	for _, m := range msgs {
		var err error
		if b, err = pipeline.JSON(b, m); err != nil {
			t.Fatal(err)
		}
		b = append(b, '\n')
	}
	want := `{"kind":"insert","schema":"public","table":"items","xid":700,"position":"0/1000100:2","time":"2026-01-01T00:00:00Z","new":{"id":1,"name":"a\nb"}}
{"kind":"update","schema":"public","table":"items","xid":701,"position":"0/1000230:2","time":"2026-01-01T00:00:01Z","old":{"id":1},"new":{"id":2,"name":null}}
{"kind":"delete","schema":"public","table":"items","xid":702,"position":"0/1000360:2","time":"2026-01-01T00:00:02Z","old":{"id":2}}
{"kind":"truncate","tables":["public.items"],"xid":703,"position":"0/1000490:2","time":"2026-01-01T00:00:03Z"}
{"kind":"message","position":"0/1000540:0","prefix":"p","payload":"say \"x\""}
`
	if string(b) != want {
		t.Errorf("got\n%s", b)
	}
	for line := range bytes.Lines(b) {
		if !json.Valid(line) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

// digit encodes numbers below 10, and leaves 0 out.
func digit(b []byte, n int) ([]byte, error) {
	switch {
	case n == 0:
		return b, nil
	case n < 10:
		return fmt.Append(b, n), nil
	}
	return append(b, "half a li"...), errBroken
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := pipeline.NewWriter(&b, digit)
	var refused *pipeline.RefusedError
	if err := w.Write(t.Context(), []int{1, 10}); !errors.As(err, &refused) || refused.Item != 1 || b.Len() != 0 {
		t.Errorf("with an item that cannot be encoded: %v; written is %q", err, &b)
	}
	if err := w.Write(t.Context(), []int{1, 0, 2}); err != nil || b.String() != "1\n2\n" {
		t.Errorf("%v; written is %q", err, &b)
	}
	pipe, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer out.Close()
	if err := pipeline.NewWriter(out, digit).Write(t.Context(), []int{3}); err != nil {
		t.Errorf("into a pipe: %v", err)
	}
}

// synced is a writer that knows when it was synced.
type synced struct {
	bytes.Buffer
	synced int
	err    error
}

func (s *synced) Sync() error {
	s.synced = s.Len()
	return s.err
}

func TestWriterSyncsBeforeItReturns(t *testing.T) {
	var s synced
	w := pipeline.NewWriter(&s, digit)
	if err := w.Write(t.Context(), []int{1, 2}); err != nil || s.synced != 4 {
		t.Errorf("%v, %d bytes are synced", err, s.synced)
	}
	s.err = errBroken
	if err := w.Write(t.Context(), []int{1}); !errors.Is(err, errBroken) {
		t.Errorf("the error of Sync: %v", err)
	}
}

// content returns all files of a directory.
func content(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range names {
		c, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %q\n", filepath.Base(name), c)
	}
	return b.String()
}

func TestFilesFollowEachOther(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		write := func(f *pipeline.Files[int], batch ...int) {
			t.Helper()
			if err := f.Write(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		}
		open := func() *pipeline.Files[int] {
			f, err := pipeline.OpenFiles(filepath.Join(dir, "n.txt"), digit, pipeline.FileLimit{Bytes: 6, Age: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		f := open()
		write(f, 1, 2)
		write(f, 3, 4)
		write(f, 0)
		write(f, 5)
		f.Close()
		f = open()
		write(f, 6)
		time.Sleep(time.Hour)
		write(f, 7)
		f.Close()
		want := `n-000001.txt: "1\n2\n3\n4\n"
n-000002.txt: "5\n6\n"
n-000003.txt: "7\n"
`
		if got := content(t, dir); got != want {
			t.Errorf("files are\n%s", got)
		}
	})
}

// What a crash has left of a line is cut off.
func TestFilesAfterACrash(t *testing.T) {
	for left, want := range map[string]string{
		"1\n2\n3":                        `"1\n2\n9\n"`,
		"1":                              `"9\n"`,
		"":                               `"9\n"`,
		"1\n" + strings.Repeat("x", 1e5): `"1\n9\n"`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "n-000007.txt"), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := pipeline.OpenFiles(filepath.Join(dir, "n.txt"), digit, pipeline.FileLimit{})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Write(t.Context(), []int{9}); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if got := content(t, dir); got != "n-000007.txt: "+want+"\n" {
			t.Errorf("files are\n%s", got)
		}
	}
}

func TestFilesWithoutDirectory(t *testing.T) {
	if _, err := pipeline.OpenFiles(filepath.Join(t.TempDir(), "no", "n.txt"), digit, pipeline.FileLimit{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestFilesOfAStream(t *testing.T) {
	const n = 500
	dir := t.TempDir()
	srv := walchantest.NewServer(rows(n)...)
	stream := subscribe(t, srv, t.Context())
	files, err := pipeline.OpenFiles(filepath.Join(dir, "rows.jsonl"), pipeline.JSON, pipeline.FileLimit{Bytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	g := pipeline.New(t.Context(), stream, time.Minute)
	pipeline.Into(g, pipeline.Batch(g, g.Source(), pipeline.Limit{Items: 50}), files)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	all := content(t, dir)
	if lines := strings.Count(all, `\n`); lines != n || strings.Count(all, "\n") < 3 || srv.Confirmed() != n {
		t.Errorf("%d lines in %d files, %d confirmed", lines, strings.Count(all, "\n"), srv.Confirmed())
	}
}
