package postgres

import (
	"strconv"

	"github.com/walchan/walchan"
	"github.com/walchan/walchan/internal/resume"
)

// place is what the target has stored.
type place struct {
	checkpoint walchan.Checkpoint
	point      resume.Point // of it
	row        []string     // commit_lsn, ordinal and checkpoint; nil: there is no row
}

// parsePlace takes a row of readPosition. An older version has stored no checkpoint, but a position, which proves nothing.
func parsePlace(row []string) (p place, err error) {
	text := row[5]
	if text == "" {
		c, err := barePosition(row)
		if err != nil {
			return p, err
		}
		text = c.String()
	}
	if p.checkpoint, err = walchan.ParseCheckpoint(text); err != nil {
		return p, err
	}
	p.row = row[3:6]
	p.point, err = pointOf(p.checkpoint)
	return p, err
}

func barePosition(row []string) (c resume.Checkpoint, err error) {
	if c.Commit, err = walchan.ParseLSN(row[3]); err != nil {
		return c, err
	}
	ordinal, err := strconv.ParseUint(row[4], 10, 32)
	if err != nil || c.Commit == 0 {
		return resume.Checkpoint{}, err // nothing was applied
	}
	c.Ordinal = uint32(ordinal)
	c.Origin = resume.Origin{SystemID: row[0], Database: row[1], Slot: row[2]}
	return c, nil
}

func pointOf(c walchan.Checkpoint) (resume.Point, error) {
	parsed, err := resume.Parse(c.String())
	return parsed.Point, err
}

// covers says whether m is applied. Tx.Redelivered says that a transaction is to be applied as a whole, whatever was before.
func (p *place) covers(m walchan.Message) bool {
	at, ok := m.Position()
	return ok && (m.Tx == nil || !m.Tx.Redelivered) && p.point.Contains(at.Commit, at.Ordinal, m.Tx == nil)
}

// next returns the place once c is stored. With the zero c nothing changes.
func (p *place) next(c walchan.Checkpoint) (place, error) {
	if c.IsZero() {
		return *p, nil
	}
	point, err := pointOf(c)
	at := c.Position()
	return place{c, point, []string{at.Commit.String(), strconv.FormatUint(uint64(at.Ordinal), 10), c.String()}}, err
}

// Each of these fails with a division by zero, and with it the transaction, unless the target has what this sink knows.
const (
	insertPlace = `WITH stored AS (INSERT INTO walchan_position (name, system_id, database, slot, commit_lsn, ordinal, checkpoint)
	VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING 1) SELECT 1 / count(*) FROM stored`
	updatePlace = `WITH stored AS (UPDATE walchan_position SET system_id = $2, database = $3, slot = $4, commit_lsn = $5, ordinal = $6, checkpoint = $7, updated_at = now()
	WHERE name = $1 AND commit_lsn = $8 AND ordinal = $9 AND coalesce(checkpoint, '') = $10 RETURNING 1) SELECT 1 / count(*) FROM stored`
	keepPlace = `SELECT 1 / count(*) FROM walchan_position WHERE name = $1 AND commit_lsn = $2 AND ordinal = $3 AND coalesce(checkpoint, '') = $4`
	noPlace   = `SELECT 1 / (1 - count(*)) FROM walchan_position WHERE name = $1`
)

// store returns the statement that puts next in the place of p.
func (p *place) store(name string, next place) statement {
	st := statement{guard: true, table: "walchan_position"}
	args := []string{name}
	switch {
	case p.row == nil && next.row == nil:
		st.sql = noPlace
	case p.checkpoint == next.checkpoint && p.row != nil && next.row != nil && next.row[2] == p.row[2]:
		st.sql = keepPlace
		args = append(args, p.row...)
	default:
		of := next.checkpoint.Source()
		args = append(args, of.SystemID, of.Database, of.Slot)
		args = append(args, next.row...)
		st.sql = insertPlace
		if p.row != nil {
			st.sql = updatePlace
			args = append(args, p.row...)
		}
	}
	for _, a := range args {
		st.params = append(st.params, []byte(a))
	}
	return st
}
