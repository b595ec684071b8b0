package walchantest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/walchantest"
)

// index is a program's handler: it keeps the titles of books, and skips drafts.
func index(ctx context.Context, stream *walchan.Stream, titles map[int64]string) error {
	defer stream.Close()
	for msg := range stream.C() {
		if err := put(ctx, msg, titles); err != nil {
			return err
		}
		stream.Ack(msg)
	}
	return stream.Err()
}

var errNoTitle = errors.New("a book without title")

func put(_ context.Context, msg walchan.Message, titles map[int64]string) error {
	if msg.Kind == walchan.Delete {
		id, err := msg.Old().Value("id")
		if err == nil {
			delete(titles, id.(int64))
		}
		return err
	}
	var book struct {
		ID    int64
		Title *string
	}
	if err := msg.New().Scan(&book); err != nil {
		return err
	}
	if book.Title == nil {
		return fmt.Errorf("%w: %d", errNoTitle, book.ID)
	}
	titles[book.ID] = *book.Title
	return nil
}

func ExampleServer() {
	books := walchantest.NewTable("books", "id bigint primary key", "title text")
	srv := walchantest.NewServer(
		walchantest.Tx(books.Insert(1, "Emma"), books.Insert(2, "Persuasion")),
		books.Update(1, "Pride and Prejudice"),
		books.Delete(2),
		books.Insert(3, nil),
		books.Insert(4, "Sanditon"),
	)
	defer srv.Close()

	ctx := context.Background()
	stream, err := srv.Subscribe(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	titles := map[int64]string{}
	fmt.Println(index(ctx, stream, titles))
	fmt.Println(titles)
	fmt.Println("transactions that do not come again:", srv.Confirmed())
	// Output:
	// a book without title: 3
	// map[1:Pride and Prejudice]
	// transactions that do not come again: 3
}

func ExampleMessages() {
	books := walchantest.NewTable("books", "id bigint primary key", "title text", "body text")
	for _, msg := range walchantest.Messages(
		books.Update(1, "Emma", walchantest.Unchanged),
		books.Update(2, "Emma", "Emma Woodhouse, handsome, clever, and rich").From(1),
		walchantest.Truncate(books),
	) {
		fmt.Println(msg)
		for i := range msg.New().Len() {
			fmt.Printf("    %s: %v %q\n", msg.Relation.Columns[i].Name, msg.New().State(i), msg.New().Text(i))
		}
	}
	// Output:
	// update public.books xid 700 at 0/1000100:2
	//     id: text "1"
	//     title: text "Emma"
	//     body: unchanged ""
	// update public.books xid 701 at 0/1000230:2
	//     id: text "2"
	//     title: text "Emma"
	//     body: text "Emma Woodhouse, handsome, clever, and rich"
	// truncate public.books xid 702 at 0/1000360:2
}

func ExampleFail() {
	books := walchantest.NewTable("books", "id bigint primary key", "title text")
	srv := walchantest.NewServer(
		books.Insert(1, "Emma"),
		walchantest.Fail(walchan.ErrSlotMissing),
	)
	defer srv.Close()

	stream, err := srv.Subscribe(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	titles := map[int64]string{}
	err = index(context.Background(), stream, titles)
	fmt.Println(titles, errors.Is(err, walchan.ErrSlotMissing))
	// Output: map[1:Emma] true
}
