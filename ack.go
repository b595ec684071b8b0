package walchan

import "github.com/walchan/walchan/internal/ledger"

// Receipt is the acknowledgement of one message: 16 bytes for whoever has let the message go. The zero Receipt
// acknowledges nothing.
type Receipt struct{ r ledger.Receipt }

// Ack acknowledges the message, as Stream.Ack does.
func (r Receipt) Ack() { r.r.Ack() }

// Skip acknowledges the message without its checkpoint, as Stream.Skip does.
func (r Receipt) Skip() { r.r.Skip() }

// AckThrough acknowledges the message and all that were delivered before it, as Stream.AckThrough does.
func (r Receipt) AckThrough() { r.r.AckThrough() }
