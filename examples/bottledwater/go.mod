module github.com/walchan/walchan/examples/bottledwater

go 1.25.0

require (
	github.com/jackc/pgx/v5 v5.12.0
	github.com/twmb/avro v1.9.0
	github.com/walchan/walchan v0.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/jackc/pgio v1.0.0 // indirect
	github.com/jackc/pglogrepl v0.0.0-20250509230407-a9884f6bd75a // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/klauspost/compress v1.18.4 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace github.com/walchan/walchan => ../..
