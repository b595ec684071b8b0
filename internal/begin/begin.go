// Package begin asks a server what is to be known before a stream begins there, or goes on: who it is, whether it has the history of
// what was delivered, and why it refuses. It decides nothing: a stream does, by what it has delivered.
package begin
