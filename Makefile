# Every target sets up what it needs. `make` alone lists them; a line with two hashes is a target's help.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PY := .venv/bin/python
export OMP_NUM_THREADS ?= 1
# Byte code is kept whatever the shell says: compiling torch at every start takes longer than the unit tests.
unexport PYTHONDONTWRITEBYTECODE
# Every worker imports torch: more than four cost more than they bring.
WORKERS := --numprocesses logical --maxprocesses 4 --dist worksteal
# The demo's and the benchmarks' parameters, given as `make demo DATA=rows.jsonl`.
SHORT ?=
DATA ?=
DATA_COLUMNS ?=
BENCH ?=
PROFILE ?= control-plane

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## the Python environment in .venv, as uv.lock says
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

.PHONY: demo
demo: setup ## the whole loop from nothing, to live traffic and back; SHORT=1: one PPO run; DATA=rows.jsonl: your own rows
	@$(PY) -m demo $(if $(SHORT),--short) $(if $(DATA),--data "$(DATA)") $(if $(DATA_COLUMNS),--columns "$(DATA_COLUMNS)")

.PHONY: test
test: test-fast ## what CI runs: unit tests first, then trainer, server and control-plane tests, and one short e2e per kind
	@$(PY) -m pytest $(WORKERS) -m "not slow" tests/trainer
	@$(PY) -m testbed up --profile node > /dev/null
	@$(PY) -m pytest -m "not slow" tests/server tests/operator tests/e2e

.PHONY: test-fast
test-fast: setup ## under a minute, without a cluster
	@$(PY) -m pytest $(WORKERS) -m "not slow" tests/unit

.PHONY: test-all
test-all: setup ## everything: also image builds, fault matrices, repeated kills, and a longer search for counterexamples
	@$(PY) -m pytest $(WORKERS) --hypothesis-profile=search tests/unit
	@$(PY) -m pytest $(WORKERS) tests/trainer
	@$(PY) -m testbed up --profile node > /dev/null
	@$(PY) -m pytest tests/server tests/operator tests/e2e

.PHONY: lint
lint: setup ## ruff, mypy and the layers between packages
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

.PHONY: generate
generate: setup ## CRDs and quickstart data from their sources
	@$(PY) -m rlhf_operator.api.crd --write
	@$(PY) -m demo.generate

.PHONY: verify
verify: lint ## lint, and that everything generated is up to date
	@$(PY) -m rlhf_operator.api.crd --check
	@$(PY) -m demo.generate --check

.PHONY: bench
bench: setup ## one benchmark: BENCH=operator; prints a table and writes build/bench/<name>.json
	@test -n "$(BENCH)" || { echo "name a benchmark: make bench BENCH=operator" >&2; exit 2; }
	@$(PY) -m bench "$(BENCH)"

.PHONY: testbed-up
testbed-up: setup ## a cluster on this machine; PROFILE=node adds real pods; prints the kubeconfig's path
	@$(PY) -m testbed up --profile "$(PROFILE)"

.PHONY: testbed-down
testbed-down: setup ## take that cluster down and leave nothing behind
	@$(PY) -m testbed down
