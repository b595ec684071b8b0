package walchan

import (
	"github.com/walchan/walchan/internal/link"
	"github.com/walchan/walchan/internal/resume"
	"github.com/walchan/walchan/internal/session"
)

// A feed makes messages and marks out of what the server sends. It knows neither the stream nor the server: it says what is to be done
// next, and the stream does that. It survives reconnects, and knows what it has delivered.
type feed interface {
	// connected begins with a connection.
	connected(b beginning)

	// next takes in a frame, and returns what is to be done. The stream calls it again, without a frame, once that is done, until it
	// is asked for the next frame. If something else than a delivery fails, the feed hears of disconnected only.
	next(frame *session.Frame, t *turn) (act, error)

	takeBack() // the message that it gave last was not delivered
	disconnected()
	delivered() resume.Point // a server that does not have it cannot continue the stream
	held() int64             // bytes kept of transactions that are not complete
}

// beginning is what a feed has to know of a connection.
type beginning struct {
	from   LSN            // where its stream begins
	until  LSN            // where the stream ends
	origin *resume.Source // of its messages
	flow   *link.Flow     // is told how late the changes are
}

// act is what a feed asks for.
type act uint8

const (
	nextFrame    act = iota // there is nothing to do
	deliver                 // message
	deliverLast             // message, and then the next frame
	settle                  // everything up to received has come, and was delivered; confirm and place say what follows from it
	isBetween               // the server has come to received, between two transactions
	lookUp                  // oids, types of relation
	askServer               // whether it has the last transaction of trial
	acceptServer            // because proves that its history is the same
	deliverPiece            // of ReadRows; message is its mark, and place what its messages' checkpoints say
	breathe                 // attend to the connection: much was done since it was read from
	repeat                  // the transaction is to be delivered once more, from its beginning, over a new connection; details say why
	finish                  // everything before the stream's end has come; received is that end, or 0
)

// turn is what belongs to an act.
type turn struct {
	message  *Message
	received LSN
	confirm  LSN           // may be confirmed once everything delivered so far is acknowledged; 0: nothing
	place    *resume.Place // what the checkpoint of the last message says, of those that have one
	relation *Relation
	oids     []uint32
	trial    *trial
	because  string
	details  []any // for the log

	confirmed LSN // what the stream has confirmed, after settle
}

// settled fills in the turn for settle.
func (t *turn) settled(received, confirm LSN, place *resume.Place) (act, error) {
	t.received, t.confirm, t.place = received, confirm, place
	return settle, nil
}
