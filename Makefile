# Everything that a developer does: `make run` shows it working, `make test` is the gate.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROTOS := $(wildcard proto/keyturn/v1/*.proto)

.PHONY: help setup run test check unit integration fmt proto docs lock simulate mutants soak bench clean

help: ## lists the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 22

setup: $(READY) ## makes .venv with everything in it; does nothing when it is up to date

$(READY): requirements/bootstrap.txt requirements/development.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("keyturn needs Python 3.11 or newer; try: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements/development.txt requirements/bootstrap.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## runs a service with embedded defaults: signs a token, verifies it, goes on serving
	@$(BIN)/keyturn demo

test: check unit integration ## the gate: formatting, lint, types, contracts, generated code, all tests

check: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry --config pyproject.toml client server
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf lint proto
	$(BIN)/python tests/tools/generate_stubs.py --check
	$(BIN)/python tests/tools/reference.py --check

unit: setup
	$(BIN)/pytest -q -n 2 tests/unit tests/contract

integration: setup
	$(BIN)/pytest -q -n 2 --dist loadfile tests/simulation tests/mutants tests/integration

fmt: setup ## formats the code and the contract
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write proto

proto: setup ## generates client/keyturn/v1 from proto/
	$(BIN)/python tests/tools/generate_stubs.py

docs: setup ## writes the references in README.md from the code
	$(BIN)/python tests/tools/reference.py

lock: setup ## pins the newest versions that pyproject.toml allows, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header requirements/bootstrap.in -o requirements/bootstrap.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header pyproject.toml --extra server --group dev -o requirements/development.txt

ROTATIONS ?= 20000
simulate: setup ## rotates under faults in virtual time, on both cores (ROTATIONS=20000), or replays one history (SEED=…)
	$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED),--rotations $(ROTATIONS))

mutants: setup ## plants bugs of which each must be caught
	$(BIN)/python -m tests.mutants.run

bench: setup ## prints the latency and the CPU of a token beside the CPU of a bare signature
	PYTHONPATH=. $(BIN)/python bench/sign.py

soak: setup ## kills writers and turns keys over under load, for minutes
	KEYTURN_CRASH_ROUNDS=200 KEYTURN_LOAD_SECONDS=120 \
	  $(BIN)/pytest -q -s tests/integration/test_crashes.py tests/integration/test_rotation_under_load.py

clean: ## removes what setup and the checks made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
