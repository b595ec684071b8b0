// Package feed makes items out of what a server sends. An item is what a message is made of: a change, a mark between changes, a piece of
// the log.
//
// A feed recognises what was delivered before. It survives reconnects. It knows neither the stream nor the server: it returns what is to be
// done next, and the stream does that.
package feed

import (
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
	"github.com/walchan/walchan/internal/txn"
	"github.com/walchan/walchan/wal"
)

// Feed is one of Changes, Plugin and Log.
type Feed interface {
	// Connected begins with a connection.
	Connected(b Beginning)

	// Next takes in a frame, and returns what is to be done. The stream calls it again, without a frame, once that is done, until it
	// is asked for the next frame. If something else than a delivery fails, the feed hears of Disconnected only.
	Next(frame *session.Frame, t *Turn) (Act, error)

	TakeBack() // the item that it gave last was not delivered
	Disconnected()
	Delivered() resume.Point // a server that does not have it cannot continue the stream
	Held() int64             // bytes kept of transactions that are not complete
}

// Beginning is what a feed has to know of a connection.
type Beginning struct {
	From   wal.LSN        // where its stream begins
	Until  wal.LSN        // where the stream ends
	Source *resume.Source // of its items
	Flow   *link.Flow     // is told how late the changes are
}

// Act is what a feed asks for.
type Act uint8

// The acts. What belongs to them stands in the Turn.
const (
	NextFrame    Act = iota // there is nothing to do
	Deliver                 // Item
	DeliverLast             // Item, and then the next frame
	Settle                  // everything up to Received has come, and was delivered; Confirm and Place say what follows from it
	IsBetween               // the server has come to Received, between two transactions
	Describe                // Table is new, or was altered: its rows follow
	AskServer               // whether it has the last transaction of Trial
	AcceptServer            // Because proves that its history is the same
	DeliverPiece            // of ReadRows; Item is its mark, and Place what its messages' checkpoints say
	Breathe                 // attend to the connection: much was done since it was read from
	Repeat                  // the transaction is to be delivered once more, from its beginning, over a new connection; Details say why
	Finish                  // everything before the stream's end has come; Received is that end, or 0
)

// Turn is what belongs to an Act. It is valid until the feed is called again.
type Turn struct {
	Item     *Item
	Received wal.LSN
	Confirm  wal.LSN       // may be confirmed once everything delivered so far is acknowledged; 0: nothing
	Place    *resume.Place // what the checkpoint of the last message says, of those that have one
	Table    *txn.Table
	Trial    *Trial
	Because  string
	Details  []any // for the log

	Confirmed wal.LSN // what the stream has confirmed, after Settle
}

// settled fills in the turn for Settle.
func (t *Turn) settled(received, confirm wal.LSN, place *resume.Place) (Act, error) {
	t.Received, t.Confirm, t.Place = received, confirm, place
	return Settle, nil
}
