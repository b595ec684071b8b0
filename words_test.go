package walchan

import (
	"encoding"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

var snakeCase = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

// wantWords checks the texts of the values 0 to n-1 of a type, and what is said of n, which is none.
func wantWords[T interface {
	~uint8
	fmt.Stringer
	encoding.TextMarshaler
}](t *testing.T, n int, unmarshal func(text []byte) (T, error)) {
	t.Helper()
	seen := map[string]bool{}
	for i := range n {
		v := T(i)
		text, err := v.MarshalText()
		if err != nil || string(text) != v.String() || !snakeCase.Match(text) || seen[v.String()] {
			t.Errorf("%T %d is %q, %q, %v", v, i, v, text, err)
		}
		seen[v.String()] = true
		if j, err := json.Marshal(v); err != nil || string(j) != `"`+v.String()+`"` {
			t.Errorf("%T %d is %s in JSON, %v", v, i, j, err)
		}
		if unmarshal == nil {
			continue
		}
		if back, err := unmarshal(text); err != nil || back != v {
			t.Errorf("%q is read as %v, %v", text, back, err)
		}
	}
	for _, i := range []int{n, 255} {
		if s := T(i).String(); !strings.HasSuffix(s, fmt.Sprintf("(%d)", i)) {
			t.Errorf("%T %d is %q", T(i), i, s)
		}
	}
	if unmarshal == nil {
		return
	}
	for _, text := range []string{"", "nothing", "Update", "commit prepared", T(n).String(), "1", " idle"} {
		if v, err := unmarshal([]byte(text)); err == nil || v != 0 || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%q is read as %v, %v", text, v, err)
		}
	}
}

func TestWords(t *testing.T) {
	wantWords(t, len(kindNames), func(text []byte) (k Kind, err error) { err = k.UnmarshalText(text); return k, err })
	wantWords(t, states, func(text []byte) (s StreamState, err error) { err = s.UnmarshalText(text); return s, err })
	wantWords[State](t, int(Binary)+1, nil)
	wantWords[Identity](t, int(FullIdentity)+1, nil)
	for r, want := range map[ReplicaIdentity]string{ReplicaIdentityDefault: "default", ReplicaIdentityIndex: "index", ReplicaIdentityFull: "full",
		ReplicaIdentityNothing: "nothing", 0: "replica_identity(0)", 'x': "replica_identity(120)"} {
		if text, err := r.MarshalText(); err != nil || string(text) != want || r.String() != want {
			t.Errorf("the replica identity %d is %q, %q, %v; want %q", r, r, text, err, want)
		}
	}
}

// A kind is also a key of JSON objects.
func TestKindIsAKeyOfJSON(t *testing.T) {
	counts := map[Kind]int{CommitPrepared: 2}
	j, err := json.Marshal(counts)
	if err != nil || string(j) != `{"commit_prepared":2}` {
		t.Errorf("%s, %v", j, err)
	}
	back := map[Kind]int{}
	if err := json.Unmarshal(j, &back); err != nil || back[CommitPrepared] != 2 {
		t.Errorf("%v, %v", back, err)
	}
}
