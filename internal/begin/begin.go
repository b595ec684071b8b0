// Package begin makes a connection stream. It asks the server what must be known before a stream begins or goes on: which server it is,
// whether it has the history of what was delivered, who holds the slot. It says why a server refuses.
//
// A Request says what a logical stream wants, and what was delivered before. Request.Begin asks, and returns what follows (Started). The
// order of the questions matters. There are four ways:
//
//   - Nothing was delivered before, and the consumer stores no checkpoints: the stream begins where the slot is.
//   - The consumer stores checkpoints (Consumer): the slot is held first, and then the consumer is asked. The history is examined.
//   - The stream has lost a connection (Lost): it goes on after what was delivered. The history is examined.
//   - Existing rows come first (Snapshot): the server exports a snapshot, and does not stream yet. Once the rows are acknowledged,
//     Request.KeepSlot makes the slot, and Request.Stream has the server stream.
//
// The package knows no stream, no ledger and no feed. The caller notes there what follows. A physical stream begins in another way, with
// some of the questions and errors of this package.
package begin
