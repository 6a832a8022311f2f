# `make demo` and `make test` set up all they need by themselves; see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
STAMP := .venv/.stamp

.PHONY: help setup demo test check bench fuzz guest clean

help:  ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) guest  ## virtual environment, pinned dependencies, JavaScript guest

$(STAMP): requirements/dev.txt pyproject.toml scripts/venv
	@scripts/venv
	@touch $@

guest: $(STAMP)
	@$(PY) scripts/build-guest || scripts/no-guest $$?

demo: setup  ## deploy an app that calls a real HTTPS upstream, and watch what it may and may not do
	@$(PY) -m fazt demo

test: setup  ## the whole suite, in parallel
	@$(PY) -m pytest -n auto --dist loadgroup

check: setup  ## format, lint, types, import contracts, dependencies, generated files, docs
	@scripts/check

bench: setup  ## what a call costs, beside its peers
	@$(PY) -m bench

fuzz: setup  ## longer property tests (FAZT_FUZZ_EXAMPLES=2000)
	@HYPOTHESIS_PROFILE=fuzz $(PY) -m pytest -n auto -m hypothesis --timeout 3600 tests

clean:  ## remove what setup made
	rm -rf .venv build dist src/fazt/functions/guest/*.wasm src/fazt/functions/guest/guest.json
