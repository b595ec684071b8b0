# Needs Go, make and git. What else a target needs is installed by scripts/postgres, which says so.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

# The packages of this module, and of those that go.work ties to it.
PACKAGES = $$(go list -m -f '{{.Dir}}/...')

DURATION := 1m
SEED := $$(date +%s)

# The servers of make matrix, and the tests that depend on the server's version.
VERSIONS := 14 15 16 17 18
VERSIONED := . ./admin ./internal/slots ./internal/tables ./internal/walrecord ./examples/... ./pipeline/postgres

FUZZED := ./internal/resume:FuzzParse .:FuzzAppendJSON .:FuzzParsePosition ./internal/pgoutput:FuzzDecode ./internal/pgoutput:FuzzCopy ./internal/session:FuzzFrames ./internal/walrecord:FuzzParse

.PHONY: help demo test matrix chaos mutants fuzz bench bench-growth fmt lint
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## run examples/quickstart against a throwaway PostgreSQL
	@scripts/postgres
	go run ./examples/quickstart

test: ## run all tests with -race
	@scripts/postgres --tests
	go test -race -timeout 40m $(PACKAGES)

matrix: ## run the contract against PostgreSQL 14 to 18
	@scripts/postgres --tests
	@for major in $(VERSIONS); do \
		bin=$$(scripts/servers $$major) || exit 1; \
		echo "PostgreSQL $$major:"; \
		WALCHAN_PGBIN=$$bin go test -race -timeout 40m $(VERSIONED) || exit 1; \
	done

chaos: ## inject faults for DURATION=1m, from SEED=the time: streams and sinks may lose, repeat and reorder nothing
	@scripts/postgres
	go run -race ./internal/chaos -duration $(DURATION) -seed $(SEED)

mutants: ## break the code on purpose, place after place, and name the test that notices
	@scripts/postgres --tests
	go run ./internal/mutants

fuzz: ## fuzz what reads bytes from the network, each target for DURATION=1m
	@for target in $(FUZZED); do \
		go test -run '^$$' -fuzz "^$${target#*:}$$" -fuzztime $(DURATION) "$${target%:*}" || exit 1; \
	done

bench: ## measure throughput, the client alone, latency and memory, next to others (an hour; with OUT=docs/bench the pages are written)
	@scripts/postgres
	go run ./internal/bench throughput $(if $(OUT),-out $(OUT))
	go run ./internal/bench client $(if $(OUT),-out $(OUT))
	go run ./internal/bench latency $(if $(OUT),-out $(OUT))
	go run ./internal/bench memory $(if $(OUT),-out $(OUT))

bench-growth: ## measure how cost grows with transactions, columns, rows, tables, unacknowledged messages and streams
	@scripts/postgres
	go run ./internal/bench growth $(if $(OUT),-out $(OUT))

fmt: ## format all files
	gofmt -w .

lint: ## check the format, go vet for Linux, Windows and macOS, and of each module by itself, staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "make fmt would change:" $$unformatted; exit 1; }
	GOOS=linux go vet $(PACKAGES)
	GOOS=windows go vet $(PACKAGES)
	GOOS=darwin go vet $(PACKAGES)
	@for dir in $$(go list -m -f '{{.Dir}}'); do (cd "$$dir" && GOWORK=off go vet ./...) || exit 1; done
	go run $(STATICCHECK) $(PACKAGES)
