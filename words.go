package walchan

import (
	"fmt"
	"slices"
)

// What is a number in memory is a word in text, JSON and logs.

// word returns the name of number n. If the list has none, word returns of and the number: "kind(99)".
func word(names []string, of string, n uint8) string {
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprintf("%s(%d)", of, n)
}

// number returns the place of a name in a list.
func number(names []string, of string, text []byte) (uint8, error) {
	n := slices.Index(names, string(text))
	if n < 0 {
		return 0, fmt.Errorf("walchan: %q is no %s", text, of)
	}
	return uint8(n), nil
}

var kindNames = []string{"invalid", "insert", "update", "delete", "truncate", "message", "begin", "commit", "raw",
	"prepare", "commit_prepared", "rollback_prepared", "wal", "timeline_history", "snapshot_begin", "read", "snapshot_end", "progress"}

// String returns the kind in snake case: "commit_prepared". That of LogicalMessage is "message", and that of the zero Message "invalid".
func (k Kind) String() string { return word(kindNames, "kind", uint8(k)) }

// MarshalText is String.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText has written. Other text is an error.
func (k *Kind) UnmarshalText(text []byte) error {
	n, err := number(kindNames, "kind of message", text)
	if err == nil {
		*k = Kind(n)
	}
	return err
}

// String returns the state in lower case: "streaming".
func (s StreamState) String() string { return word(stateNames[:], "state", uint8(s)) }

// MarshalText is String.
func (s StreamState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText has written. Other text is an error.
func (s *StreamState) UnmarshalText(text []byte) error {
	n, err := number(stateNames[:], "state of a stream", text)
	if err == nil {
		*s = StreamState(n)
	}
	return err
}

// String returns "not_sent", "null", "unchanged", "text" or "binary".
func (s State) String() string {
	return word([]string{"not_sent", "null", "unchanged", "text", "binary"}, "state", uint8(s))
}

// MarshalText is String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns "none", "key" or "full".
func (i Identity) String() string { return word([]string{"none", "key", "full"}, "identity", uint8(i)) }

// MarshalText is String.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// String returns "default", "index", "full" or "nothing".
func (r ReplicaIdentity) String() string {
	switch r {
	case ReplicaIdentityDefault:
		return "default"
	case ReplicaIdentityIndex:
		return "index"
	case ReplicaIdentityFull:
		return "full"
	case ReplicaIdentityNothing:
		return "nothing"
	}
	return fmt.Sprintf("replica_identity(%d)", byte(r))
}

// MarshalText is String.
func (r ReplicaIdentity) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
