// Package begin asks a server what a stream must know before it begins there, or goes on: which server it is, whether it has the history
// of what was delivered, who holds the slot, and why it refuses. The package says what the answers mean. The stream acts on them.
package begin
