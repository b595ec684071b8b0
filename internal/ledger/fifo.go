package ledger

// fifo is a queue that keeps its memory from one short backlog to the next, and lets go that of a long one.
type fifo[T any] struct {
	items []T // items[:head] are gone
	head  int
}

func (q *fifo[T]) all() []T { return q.items[q.head:] }
func (q *fifo[T]) len() int { return len(q.items) - q.head }
func (q *fifo[T]) last() *T { return &q.items[len(q.items)-1] }
func (q *fifo[T]) push(x T) { q.items = append(q.items, x) }

// drop takes out the first n.
func (q *fifo[T]) drop(n int) {
	q.head += n
	rest := q.all()
	switch size := cap(q.items); {
	case size > short && len(rest) < size/4:
		q.items, q.head = append(make([]T, 0, max(short, 2*len(rest))), rest...), 0
	case len(rest) <= q.head: // it moves no more than it has dropped
		q.items, q.head = q.items[:copy(q.items, rest)], 0
	}
}

const short = 1024
