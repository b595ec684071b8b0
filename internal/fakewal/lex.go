package fakewal

import "strings"

// token is a piece of a replication command or query. Its kind is 'w' for a word, number or LSN, 'i' for a quoted
// identifier, 'l' for a literal, and otherwise the character itself.
type token struct {
	kind byte
	text string
}

// is compares with a keyword.
func (t token) is(keyword string) bool { return t.kind == 'w' && strings.EqualFold(t.text, keyword) }

// name says whether t can name something, and what: words are folded.
func (t token) name() (string, bool) {
	switch t.kind {
	case 'w':
		return strings.ToLower(t.text), true
	case 'i':
		return t.text, true
	}
	return "", false
}

// lex splits sql; comments and a semicolon at the end are left out.
func lex(sql string) (toks []token) {
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			i++
		case strings.HasPrefix(sql[i:], "--"):
			n := strings.IndexByte(sql[i:]+"\n", '\n')
			i += n
		case (c == 'E' || c == 'e') && strings.HasPrefix(sql[i+1:], "'"):
			text, n := quoted(sql[i+1:], true)
			toks, i = append(toks, token{'l', text}), i+1+n
		case c == '\'':
			text, n := quoted(sql[i:], false)
			toks, i = append(toks, token{'l', text}), i+n
		case c == '"':
			text, n := quoted(sql[i:], false)
			toks, i = append(toks, token{'i', text}), i+n
		case isWord(c):
			n := i
			for n < len(sql) && (isWord(sql[n]) || sql[n] == '/') {
				n++
			}
			toks, i = append(toks, token{'w', sql[i:n]}), n
		default:
			toks, i = append(toks, token{c, sql[i : i+1]}), i+1
		}
	}
	for len(toks) > 0 && toks[len(toks)-1].kind == ';' {
		toks = toks[:len(toks)-1]
	}
	return toks
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}

// quoted reads what begins with a quote, and returns its length with the quotes. A doubled quote is one.
func quoted(s string, escapes bool) (text string, n int) {
	q, b := s[0], []byte(nil)
	for n = 1; n < len(s); n++ {
		switch {
		case s[n] == q && strings.HasPrefix(s[n+1:], s[:1]), escapes && s[n] == '\\' && n+1 < len(s):
			n++
		case s[n] == q:
			return string(b), n + 1
		}
		b = append(b, s[n])
	}
	return string(b), n
}
