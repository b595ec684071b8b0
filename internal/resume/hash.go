package resume

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// Hash adds a message of a transaction to the hash of those before it. The messages are those of pgoutput that count as
// ordinals, without the XID that they have in a block of a transaction in progress.
//
// The function is fixed, because the hash is stored. It adds products of eight bytes and eight bytes, each under keys of its
// place, so that no product waits for the one before it. A CRC of a row of ten columns takes half as long again, which is
// a part of all that the client does for a row that can be measured.
func Hash(before uint32, message []byte) uint32 {
	b, key := message, uint64(hashA)
	var sum uint64
	for ; len(b) > 16; b = b[16:] {
		sum += product(binary.LittleEndian.Uint64(b)^key, binary.LittleEndian.Uint64(b[8:])^bits.RotateLeft64(key, 32))
		key += hashA
	}
	var x, y uint64 // the rest: at most 16 bytes, in two words that may overlap
	switch n := len(b); {
	case n >= 8:
		x, y = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[n-8:])
	case n >= 4:
		x, y = uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[n-4:]))
	case n > 0:
		x, y = uint64(b[0]), uint64(b[n/2])<<8|uint64(b[n-1])
	}
	sum += product(x^key, y^bits.RotateLeft64(key, 32))
	h := product(sum^hashB, hashA^(uint64(before)<<32|uint64(uint32(len(message)))))
	h = product(h^hashB, hashA)
	return uint32(h ^ h>>32)
}

// Odd numbers without a pattern: the fractions of the golden ratio and of the square root of 2.
const (
	hashA = 0x9E3779B97F4A7C15
	hashB = 0x6A09E667F3BCC909
)

func product(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// HashBytes adds a piece of the log to the hash of the bytes before it, however those were cut into pieces.
func HashBytes(before uint32, piece []byte) uint32 { return crc32.Update(before, castagnoli, piece) }
