package walchan_test

const crashConsumer = "X"

func consumeUntilKilled() {}
