# Needs Go, make and git. What else a target needs is installed by scripts/postgres, which says so.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

# The packages of this module, and of those that go.work ties to it.
PACKAGES = $$(go list -m -f '{{.Dir}}/...')

.PHONY: help demo test fmt lint
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: ## run examples/quickstart against a throwaway PostgreSQL
	@scripts/postgres
	go run ./examples/quickstart

test: ## run all tests with -race
	@scripts/postgres --tests
	go test -race $(PACKAGES)

fmt: ## format all files
	gofmt -w .

lint: ## check the format, go vet for Linux, Windows and macOS, staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "make fmt would change:" $$unformatted; exit 1; }
	GOOS=linux go vet $(PACKAGES)
	GOOS=windows go vet $(PACKAGES)
	GOOS=darwin go vet $(PACKAGES)
	go run $(STATICCHECK) $(PACKAGES)
