package walchan_test

import (
	"errors"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walchan/walchan"
)

var msg walchan.Message // as received from Stream.C

func ExampleRow_Scan() {
	var order struct {
		ID      int64
		State   string
		Total   pgtype.Numeric
		Paid    *time.Time // may be NULL
		Invoice []byte     `db:"invoice_pdf,optional"` // large: left out of an UPDATE that does not change it
	}
	if err := msg.New().Scan(&order); err != nil {
		log.Print(err)
	}
}

func ExampleRow_Value() {
	v, err := msg.New().Value("body")
	switch {
	case errors.Is(err, walchan.ErrUnchanged):
		log.Print("body is what it was")
	case err != nil:
		log.Print(err)
	case v == nil:
		log.Print("body is NULL")
	}
}

func ExampleRow_AppendJSON() {
	line, err := msg.New().AppendJSON(nil)
	if err != nil {
		log.Print(err)
		return
	}
	os.Stdout.Write(append(line, '\n'))
}
