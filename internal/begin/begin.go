// Package begin asks a server what is to be known before a stream begins there, or goes on: who it is, whether it has the history of
// what was delivered, who has its slot, and why it refuses. It says what the answers mean. It acts on none of them: a stream does.
package begin
