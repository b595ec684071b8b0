package walchan

// types is what a stream knows of PostgreSQL's types.
type types struct{}
